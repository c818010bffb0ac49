"""mIoU and pixel accuracy against a confusion matrix that is counted pixel by pixel."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bt_ray.segmentation.scores import Scorer

CLASSES = ("ground", "cat", "dog", "eel", "fox")


def confusion(pairs: list[tuple[NDArray[np.int64], NDArray[np.int64]]]) -> NDArray[np.float64]:
    """Pixels by label and prediction; those of label 255 are left out."""
    found = np.zeros((5, 5))
    for predicted, labels in pairs:
        for guess, label in zip(predicted.ravel(), labels.ravel(), strict=True):
            if label != 255:
                found[label, guess] += 1
    return found


def test_against_a_naive_confusion_matrix() -> None:
    """Class 3 is predicted and nowhere; 4 is in no mask and is not predicted."""
    generator = np.random.default_rng(0)
    pairs = []
    for height, width in ((7, 9), (12, 5), (8, 8)):
        labels = generator.choice([0, 1, 2, 255], (height, width), p=[0.5, 0.2, 0.1, 0.2])
        noise = generator.random((height, width)) < 0.3
        predicted = np.where(noise, generator.integers(0, 4, labels.shape), labels % 255)
        pairs.append((predicted.astype(np.int64), labels.astype(np.int64)))
    scorer = Scorer(CLASSES)
    for predicted, labels in pairs:
        scorer.update(torch.from_numpy(predicted)[None], torch.from_numpy(labels)[None])
    found, counts = scorer.compute(), confusion(pairs)
    right = np.diag(counts)
    union = counts.sum(0) + counts.sum(1) - right
    assert union[3] > 0
    assert union[4] == 0
    for index, name in enumerate(CLASSES[:4]):
        assert found.iou[name] == pytest.approx(right[index] / union[index], rel=1e-6)
    assert found.iou["eel"] == 0
    assert found.iou["fox"] is None
    assert found.mean_iou == pytest.approx((right[:4] / union[:4]).mean(), rel=1e-6)
    assert found.pixel_accuracy == pytest.approx(right.sum() / counts.sum(), rel=1e-6)


def test_all_right() -> None:
    labels = torch.tensor([[[0, 1], [2, 255]]])
    scorer = Scorer(CLASSES)
    scorer.update(labels.clamp(max=4), labels)
    found = scorer.compute()
    assert (found.mean_iou, found.pixel_accuracy) == (1.0, 1.0)
