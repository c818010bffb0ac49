"""Both average precisions, against the definitions written out, scikit-learn and torchmetrics."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score
from torchmetrics.functional.classification import binary_average_precision

from bt_ray.evaluation.precision import average_precisions


def naive(positive: NDArray[np.bool_], scores: NDArray[np.float64]) -> tuple[float, float]:
    """As the development kits of 2007 and 2010 say it, threshold by threshold."""
    points = []
    for threshold in sorted(set(scores), reverse=True):
        taken = scores >= threshold
        points.append((positive[taken].sum() / positive.sum(), positive[taken].mean()))
    eleven = sum(
        max((p for r, p in points if r >= recall / 10 - 1e-9), default=0.0) for recall in range(11)
    )
    every, before = 0.0, 0.0
    for recall, _ in points:
        every += (recall - before) * max(p for r, p in points if r >= recall)
        before = recall
    return eleven / 11, every


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("decimals", [8, 1])
def test_both_are_what_their_definitions_say(seed: int, decimals: int) -> None:
    """With one decimal many scores are equal."""
    generator = np.random.default_rng(seed)
    positive = generator.random(60) < generator.uniform(0.1, 0.9)
    positive[0] = True
    scores = (generator.standard_normal(60) + positive).round(decimals)
    found = average_precisions(positive, scores)
    assert found == pytest.approx(naive(positive, scores))
    # Without the highest precision at higher recalls, the area is a little smaller.
    plain = average_precision_score(positive, scores)
    assert found[1] >= plain - 1e-12
    # Ranks have the same order and ties; of scores outside 0…1 torchmetrics takes the sigmoid,
    # whose rounding, and so which of them are equal, differs from one CPU to another.
    ranks = np.unique(scores, return_inverse=True)[1] / len(scores)
    other = binary_average_precision(torch.from_numpy(ranks), torch.from_numpy(positive).long())
    assert plain == pytest.approx(float(other), abs=1e-6)


def test_where_precision_never_rises_all_points_are_scikit_learns() -> None:
    positive, scores = np.array([1, 1, 0, 0, 0], bool), np.array([5.0, 4, 3, 2, 1])
    assert average_precisions(positive, scores) == (1.0, 1.0)
    positive = np.array([1, 0, 0, 1, 0, 0], bool)
    expected = average_precision_score(positive, -np.arange(6.0))
    assert average_precisions(positive, -np.arange(6.0))[1] == pytest.approx(expected)
    assert average_precisions(positive, -np.arange(6.0))[0] == pytest.approx((6 + 5 * 0.5) / 11)


def test_the_worst_order_scores_its_worst() -> None:
    positive = np.array([0, 0, 0, 1], bool)
    assert average_precisions(positive, -np.arange(4.0)) == pytest.approx((0.25, 0.25))
