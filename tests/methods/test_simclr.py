"""SimCLR's loss beside Eq. 1, pair by pair."""

import math

import pytest
import torch
from torch import Tensor

from bt_ray.methods.simclr import nt_xent
from tests.methods.slopes import random, slopes

TEMPERATURE = 0.3


def _cosine(a: Tensor, b: Tensor) -> float:
    dot = sum(float(x) * float(y) for x, y in zip(a, b, strict=True))
    lengths = [math.sqrt(sum(float(x) ** 2 for x in v)) for v in (a, b)]
    return dot / (lengths[0] * lengths[1])


def naive(z_a: Tensor, z_b: Tensor) -> float:
    """Algorithm 1: the mean of ℓ(i, j) over both views of each image as anchors."""
    z, total = [*z_a, *z_b], 0.0
    for i in range(len(z)):
        j = (i + len(z_a)) % len(z)
        powers = [math.exp(_cosine(z[i], other) / TEMPERATURE) for other in z]
        others = sum(power for k, power in enumerate(powers) if k != i)
        total -= math.log(powers[j] / others)
    return total / len(z)


def test_the_loss_is_that_of_the_paper() -> None:
    z_a, z_b = random(4, 3, seed=0).requires_grad_(), random(4, 3, seed=1).requires_grad_()
    loss, _ = nt_xent(z_a, z_b, TEMPERATURE)
    loss.backward()
    a, b = z_a.detach(), z_b.detach()
    assert float(loss.detach()) == pytest.approx(naive(a, b), rel=1e-12)
    torch.testing.assert_close(z_a.grad, slopes(lambda z: naive(z, b), a), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(z_b.grad, slopes(lambda z: naive(a, z), b), rtol=1e-6, atol=1e-8)


def test_hits_are_views_whose_nearest_is_their_other() -> None:
    """Two images whose views agree, and two whose views are the other image's."""
    z = torch.eye(4, dtype=torch.float64)
    _, hits = nt_xent(z, z[[0, 1, 3, 2]] + 0.01, TEMPERATURE)
    assert float(hits) == 0.5


def test_the_loss_is_lightlys() -> None:
    loss = pytest.importorskip("lightly.loss", reason="lightly is not installed")
    z_a, z_b = random(16, 8, seed=2).float(), random(16, 8, seed=3).float()
    theirs = loss.NTXentLoss(temperature=TEMPERATURE)(z_a, z_b)
    torch.testing.assert_close(nt_xent(z_a, z_b, TEMPERATURE)[0], theirs, rtol=1e-5, atol=1e-6)
