"""One linear SVM a class on fixed features, as in the paper's Table 3 (VOC07)."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.svm import LinearSVC

from bt_ray.errors import DataError
from bt_ray.evaluation.precision import average_precisions

_STRENGTHS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
_FOLDS = 3
_POSITIVE_WEIGHT = 2.0
_MOST_ITERATIONS = 2000


@dataclass(frozen=True)
class ClassScore:
    """One class: its average precisions, and the C that was chosen for its SVM."""

    name: str
    eleven_point: float
    all_point: float
    strength: float


def score_svms(
    train_x: NDArray[np.float32],
    train_targets: NDArray[np.int8],
    test_x: NDArray[np.float32],
    test_targets: NDArray[np.int8],
    classes: tuple[str, ...],
    *,
    seed: int,
    on_progress: Callable[[int], None] = lambda done: None,
) -> list[ClassScore]:
    """Scores of each class, learnt from the first features and measured on the second.

    Features are scaled to length 1; scikit-learn's LinearSVC (LIBLINEAR; squared hinge, L2,
    positives weigh twice) is fitted with the C of the best average precision in a three-fold
    cross-validation on the training images. Length, weights and folds are VISSL's; the grid of C
    is ours.

    Args:
      train_x, test_x: (n, F).
      train_targets, test_targets: (n, classes) of 1, −1 and, for images to be left out, 0.
      seed: of the folds.
    Raises: DataError if a class is in nearly all training images or in nearly none, or in no
      test image.
    """
    unit_train, unit_test = _unit(train_x), _unit(test_x)
    scores = []
    for place, name in enumerate(classes):
        train, test = train_targets[:, place], test_targets[:, place]
        _check(name, train, test)
        x, y = unit_train[train != 0], train[train != 0]
        strength = _choose(x, y, seed)
        margins = _svm(strength, seed, x, y).decision_function(unit_test[test != 0])
        scores.append(ClassScore(name, *average_precisions(test[test != 0] > 0, margins), strength))
        on_progress(place + 1)
    return scores


def _unit(x: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = x.astype(np.float64)
    length = np.linalg.norm(wide, axis=1, keepdims=True)
    scaled: NDArray[np.float64] = wide / np.maximum(length, 1e-12)
    return scaled


def _check(name: str, train: NDArray[np.int8], test: NDArray[np.int8]) -> None:
    for kind, sign in (("with", 1), ("without", -1)):
        count = int((train == sign).sum())
        if count < 2:
            raise DataError(
                f"{count} training images are {kind} {name!r}; an SVM and its cross-validation "
                "need 2 at least. Add such images, or take the class out of the annotations."
            )
    if not (test == 1).any():
        raise DataError(
            f"No test image has {name!r}, so that its precision is undefined; add such images, or "
            "take the class out of the annotations."
        )


def _choose(x: NDArray[np.float64], y: NDArray[np.int8], seed: int) -> float:
    rarer = int(min((y == 1).sum(), (y == -1).sum()))
    folds = StratifiedKFold(min(_FOLDS, rarer), shuffle=True, random_state=seed)

    def precision(strength: float) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            found = cross_val_score(
                _machine(strength, seed), x, y, cv=folds, scoring="average_precision"
            )
        return float(found.mean())

    return max(_STRENGTHS, key=precision)


def _machine(strength: float, seed: int) -> LinearSVC:
    return LinearSVC(
        C=strength,
        class_weight={1: _POSITIVE_WEIGHT, -1: 1.0},
        dual="auto",
        max_iter=_MOST_ITERATIONS,
        random_state=seed,
    )


def _svm(strength: float, seed: int, x: NDArray[np.float64], y: NDArray[np.int8]) -> LinearSVC:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return _machine(strength, seed).fit(x, y)
