"""Sinkhorn-Knopp: sums of rows and columns, and what a naive loop finds."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from bt_ray.methods import blocks
from bt_ray.methods.sinkhorn import balanced_labels, sinkhorn


def _cosines(num_rows: int, num_prototypes: int, width: int = 8) -> Tensor:
    """Of random points, whose first coordinate all have in common: uneven before it is evened."""
    z = torch.randn(num_rows, width, dtype=torch.float64)
    z[:, 0] += 2
    return normalize(z, dim=1) @ normalize(torch.randn(num_prototypes, width).double(), dim=1).T


def _naive(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Appendix A's loop, a number at a time; the prototypes are its rows."""
    num_rows, num_prototypes = scores.shape
    q = [[math.exp(float(s) / epsilon) for s in row] for row in scores.T]
    for _ in range(iterations):
        for k in range(num_prototypes):
            total = sum(q[k])
            q[k] = [value / total / num_prototypes for value in q[k]]
        for b in range(num_rows):
            total = sum(q[k][b] for k in range(num_prototypes))
            for k in range(num_prototypes):
                q[k][b] /= total * num_rows
    return torch.tensor(q, dtype=torch.float64).T * num_rows


@pytest.mark.parametrize("iterations", [1, 3])
def test_codes_are_those_of_a_naive_loop(iterations: int) -> None:
    """In float64 to rounding; in float32 to its own."""
    scores = _cosines(12, 5)
    expected = _naive(scores, 0.05, iterations)
    torch.testing.assert_close(sinkhorn(scores, 0.05, iterations), expected, rtol=1e-12, atol=1e-14)
    found = sinkhorn(scores.float(), 0.05, iterations)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-7)


def test_rows_sum_to_one_and_columns_are_even() -> None:
    """Rows after any number of iterations, columns after many; before, they were far from it."""
    scores = _cosines(60, 6)
    once, often = sinkhorn(scores, 0.05, 1), sinkhorn(scores, 0.05, 1000)
    for codes in (once, often):
        torch.testing.assert_close(codes.sum(dim=1), torch.ones(60).double())
    torch.testing.assert_close(often.sum(dim=0), torch.full((6,), 10.0).double(), rtol=1e-6, atol=0)
    assert (once.sum(dim=0) - 10).abs().max() > 1


def test_half_precision_is_widened_and_does_not_overflow() -> None:
    """exp(1 / 0.005) is beyond float32, too."""
    scores = _cosines(12, 5).to(torch.bfloat16)
    codes = sinkhorn(scores, 0.005, 3)
    assert codes.dtype == torch.float32
    assert codes.isfinite().all()
    torch.testing.assert_close(codes, sinkhorn(scores.double(), 0.005, 3).float())


def _whole_matrix_labels(z: Tensor, prototypes: Tensor, sharpness: float) -> Tensor:
    """Algorithm 1 with u, v and the whole matrix, to the end."""
    p = (sharpness * z @ prototypes.T).exp()
    u, v = torch.ones(len(z)).double(), torch.ones(len(prototypes)).double()
    for _ in range(2000):
        v = 1 / len(prototypes) / (p.T @ u)
        u = 1 / len(z) / (p @ v)
    return (u[:, None] * p * v).argmax(dim=1)


def test_labels_of_all_images_are_those_of_the_whole_matrix(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However small the blocks; few are at the border of what the sums allow to differ."""
    z = normalize(torch.randn(300, 8).double() + 0.5, dim=1)
    prototypes = normalize(torch.randn(10, 8).double(), dim=1)
    expected = _whole_matrix_labels(z, prototypes, 20.0)
    whole = balanced_labels(z, prototypes, 20.0, 500)
    monkeypatch.setattr(blocks, "_BLOCK_ELEMENTS", 70)
    assert len(blocks.blocks(z, 10)) == 43
    assert torch.equal(balanced_labels(z, prototypes, 20.0, 500), whole)
    assert (whole == expected).float().mean() >= 0.99
    assert (whole == (z @ prototypes.T).argmax(dim=1)).float().mean() < 0.9


def test_each_label_has_about_as_many_images() -> None:
    """At the sharpness of the settings, where the nearest prototypes are far from it."""
    z = normalize(torch.randn(600, 8) + 0.5, dim=1)
    prototypes = normalize(torch.randn(10, 8), dim=1)
    nearest = (z @ prototypes.T).argmax(dim=1).bincount(minlength=10)
    counts = balanced_labels(z, prototypes, 250.0, 100).bincount(minlength=10)
    assert (counts - 60).abs().max() <= 4
    assert (nearest - 60).abs().max() > 60


def test_a_prototype_that_no_image_is_near_gets_its_share() -> None:
    """Where its column's sum is at first too small for float32."""
    ahead = torch.tensor([1.0, *[0.0] * 7])
    z = normalize(ahead + 0.05 * torch.randn(1000, 8), dim=1)
    prototypes = torch.cat([z[:9], -ahead[None]])
    counts = balanced_labels(z, prototypes, 4000.0, 100).bincount(minlength=10)
    assert (counts - 100).abs().max() <= 30
