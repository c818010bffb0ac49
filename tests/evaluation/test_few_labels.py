"""A classifier that knows few labels learns from these alone, class by class."""

import numpy as np
import pytest
import torch

from bt_ray.errors import SettingsError
from bt_ray.evaluation.features import Features
from bt_ray.evaluation.few_labels import FewLabels


def clusters(num_each: int, *, num_classes: int = 7, seed: int = 0) -> Features:
    """Features (n, 16) around a point of each class, far apart beside their spread."""
    made = torch.Generator().manual_seed(seed)
    centers = 4 * torch.randn(num_classes, 16, generator=torch.Generator().manual_seed(9))
    labels = torch.arange(num_classes).repeat(num_each)
    x = centers[labels] + 0.3 * torch.randn(len(labels), 16, generator=made)
    digests = np.arange(len(labels), dtype=np.uint64)
    return Features(x, labels, digests, tuple(map(str, range(num_classes))))


def test_one_image_a_class_tells_far_clusters_apart() -> None:
    found = FewLabels(1.0)(clusters(100), clusters(20, seed=1))
    assert found.keys() == {"linear_1pct_top1", "linear_1pct_top5"}
    assert found["linear_1pct_top1"] > 0.95
    assert found["linear_1pct_top5"] == 1.0


def test_labels_that_were_not_drawn_change_nothing() -> None:
    """Of 700 labels, 5 draws of 7 are read: all others may be wrong."""
    train, test = clusters(100), clusters(20, seed=1)
    few = FewLabels(1.0)
    known = np.unique(np.concatenate(list(few._draws(train))))
    assert len(known) <= 35
    wrong = (train.labels + 1) % 7
    wrong[known] = train.labels[known]
    # Draws are class by class, so that wrong labels would change them: these are kept.
    draws = list(few._draws(train))
    mistaken = Features(train.x, wrong, train.digests, train.classes)
    kept = FewLabels(1.0)
    object.__setattr__(kept, "_draws", lambda _: iter(draws))
    assert kept(mistaken, test) == few(train, test)


def test_two_classes_have_no_top5() -> None:
    found = FewLabels(10.0)(clusters(50, num_classes=2), clusters(20, num_classes=2, seed=1))
    assert found.keys() == {"linear_10pct_top1"}
    assert found["linear_10pct_top1"] > 0.95


@pytest.mark.parametrize("percent", [0.0, -1.0, 101.0, float("nan")])
def test_a_share_that_is_none_is_refused(percent: float) -> None:
    with pytest.raises(SettingsError, match="must lie above 0, up to 100"):
        FewLabels(percent)
