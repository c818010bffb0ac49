"""Top-k accuracy, against scikit-learn and torchmetrics."""

import numpy as np
import pytest
import torch
from sklearn.metrics import top_k_accuracy_score
from torchmetrics.functional.classification import multiclass_accuracy

from bt_ray.evaluation.accuracy import count_hits, guesses_counted


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("k", [1, 2, 5])
def test_hits_are_those_of_scikit_learn_and_torchmetrics(seed: int, k: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(200, 11, generator=generator)
    labels = torch.randint(11, (200,), generator=generator)
    share = count_hits(logits, labels, k) / 200
    expected = top_k_accuracy_score(labels, logits, k=k, labels=np.arange(11))
    assert share == pytest.approx(expected)
    other = multiclass_accuracy(logits, labels, num_classes=11, average="micro", top_k=k)
    assert share == pytest.approx(float(other))


def test_five_guesses_of_five_classes_are_not_counted() -> None:
    assert guesses_counted(5) == (1,)
    assert guesses_counted(6) == (1, 5)
