"""One SVM a class, on features whose answer is known."""

import numpy as np
import pytest
from numpy.typing import NDArray

from bt_ray.errors import DataError
from bt_ray.evaluation.svm import ClassScore, score_svms

CLASSES = ("cat", "dog")


def scenes(seed: int, num: int = 120) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """Features that show which of two classes are in an image, one of them, both or none."""
    generator = np.random.default_rng(seed)
    present = generator.random((num, 2)) < 0.4
    x = np.concatenate([present, np.ones((num, 1))], 1) + generator.normal(0, 0.05, (num, 3))
    return x.astype(np.float32), np.where(present, 1, -1).astype(np.int8)


def test_separable_is_solved_and_shuffled_is_guessed() -> None:
    train, test = scenes(0), scenes(1)
    done: list[int] = []
    found = score_svms(*train, *test, CLASSES, seed=0, on_progress=done.append)
    assert [(s.name, s.eleven_point, s.all_point) for s in found] == [
        ("cat", 1.0, 1.0), ("dog", 1.0, 1.0)
    ]  # fmt: skip
    assert done == [1, 2]


def test_labels_that_features_do_not_tell_are_guessed() -> None:
    """Shuffled labels: precision is the share of positives."""
    generator = np.random.default_rng(0)
    x, test_x = (generator.standard_normal((120, 32)).astype(np.float32) for _ in range(2))
    (_, targets), (_, test_targets) = scenes(0), scenes(1)
    guessed = [
        score_svms(x, generator.permutation(targets), test_x, test_targets, CLASSES, seed=0)
        for _ in range(4)
    ]
    found = np.mean([score.all_point for scores in guessed for score in scores])
    assert found == pytest.approx((test_targets == 1).mean(), abs=0.1)


def test_what_is_difficult_neither_trains_nor_counts() -> None:
    (x, targets), (test_x, test_targets) = scenes(0), scenes(1)
    expected = score_svms(x, targets, test_x, test_targets, CLASSES, seed=0)
    strange = np.full((30, 3), -5.0, np.float32)  # that would spoil both, if it were looked at
    ignored = np.zeros((30, 2), np.int8)
    found = score_svms(
        np.concatenate([x, strange]),
        np.concatenate([targets, ignored]),
        np.concatenate([test_x, strange]),
        np.concatenate([test_targets, ignored]),
        CLASSES,
        seed=0,
    )
    assert found == expected
    assert all(isinstance(score, ClassScore) for score in found)


@pytest.mark.parametrize(
    ("sign", "sentence"),
    [(1, "0 training images are without 'cat'"), (-1, "0 training images are with 'cat'")],
)
def test_a_class_of_one_kind_is_refused(sign: int, sentence: str) -> None:
    (x, targets), test = scenes(0), scenes(1)
    targets[:, 0] = sign
    with pytest.raises(DataError, match=sentence):
        score_svms(x, targets, *test, CLASSES, seed=0)


def test_a_class_that_is_in_no_test_image_is_refused() -> None:
    train, (x, targets) = scenes(0), scenes(1)
    targets[:, 1] = np.minimum(targets[:, 1], 0)
    with pytest.raises(DataError, match="No test image has 'dog'"):
        score_svms(*train, x, targets, CLASSES, seed=0)
