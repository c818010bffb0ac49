import itertools
import math

import pytest
import torch
from torch import Tensor

from bt_ray.objective.barlow import EPSILON, BarlowTwins, barlow_twins_loss, barlow_twins_terms
from tests.workers import run_workers

LAMBDA = 5e-3


def naive_loss(z_a: Tensor, z_b: Tensor, lambda_: float) -> Tensor:
    """Eq. 1 and 2 as written, one entry of C at a time; only ε is added to each variance."""
    n, d = z_a.shape
    a, b = z_a - z_a.mean(0), z_b - z_b.mean(0)
    loss = z_a.new_zeros(())
    for i, j in itertools.product(range(d), range(d)):
        norm_a = torch.sqrt((a[:, i] ** 2).sum() + n * EPSILON)
        norm_b = torch.sqrt((b[:, j] ** 2).sum() + n * EPSILON)
        c = (a[:, i] * b[:, j]).sum() / (norm_a * norm_b)
        loss = loss + ((1 - c) ** 2 if i == j else lambda_ * c**2)
    return loss


def embeddings(n: int, d: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n * 1000 + d)
    shared = torch.randn(n, d, generator=generator, dtype=torch.float64)
    noise = torch.randn(2, n, d, generator=generator, dtype=torch.float64)
    scale = torch.linspace(0.5, 3, d, dtype=torch.float64)
    z_a, z_b = (((shared + 0.5 * e) * scale + 1).to(dtype) for e in noise)
    return z_a, z_b


def value_and_gradients(function, *z: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[no-untyped-def]
    z_a, z_b = (x.detach().clone().requires_grad_() for x in z)
    loss = function(z_a, z_b, LAMBDA)
    loss.backward()
    return loss.detach(), z_a.grad, z_b.grad  # type: ignore[return-value]


def relative_error(got: Tensor, expected: Tensor) -> float:
    return float((got.double() - expected.double()).norm() / expected.double().norm())


@pytest.mark.parametrize(("n", "d"), [(8, 1), (8, 5), (5, 12), (32, 8)])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_value_and_gradients_are_those_of_the_equations(
    n: int, d: int, dtype: torch.dtype, bound: float
) -> None:
    z = embeddings(n, d, dtype)
    expected = value_and_gradients(naive_loss, *(x.double() for x in z))
    got = value_and_gradients(barlow_twins_loss, *z)
    for ours, reference in zip(got, expected, strict=True):
        assert relative_error(ours, reference) < bound


def test_two_samples_are_enough() -> None:
    """Every correlation is then 1 or −1, to ε, and the gradient next to nothing."""
    expected = value_and_gradients(naive_loss, *embeddings(2, 3))
    got = value_and_gradients(barlow_twins_loss, *embeddings(2, 3))
    for ours, reference in zip(got, expected, strict=True):
        assert relative_error(ours, reference) < 1e-8


def _share(rank: int, world_size: int, rows: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    z_a, z_b = embeddings(16, 6)
    start = sum(rows[:rank])
    mine = slice(start, start + rows[rank])
    return value_and_gradients(barlow_twins_loss, z_a[mine], z_b[mine])


@pytest.mark.parametrize("rows", [[8, 8], [4, 4, 4, 4], [3, 13], [1, 5, 2, 8]])
def test_workers_share_the_loss_and_gradients_of_the_global_batch(rows: list[int]) -> None:
    expected = value_and_gradients(naive_loss, *embeddings(16, 6))
    shares = run_workers(len(rows), _share, rows)
    for loss, _, _ in shares:
        assert relative_error(loss, expected[0]) < 1e-10
    for view in (1, 2):
        assert relative_error(torch.cat([share[view] for share in shares]), expected[view]) < 1e-10


def test_scaling_and_shifting_a_dimension_changes_nothing() -> None:
    z_a, z_b = embeddings(64, 5)
    scale = torch.tensor([1.0, 2, 10, 30, 100], dtype=torch.float64)
    expected = barlow_twins_loss(z_a, z_b, LAMBDA)
    got = barlow_twins_loss(z_a * scale + 7, z_b * scale - 3, LAMBDA)
    assert relative_error(got, expected) < 20 * EPSILON


def test_decorrelated_identical_views_reach_the_minimum() -> None:
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=4)), dtype=torch.float64)
    on_diagonal, off_diagonal = barlow_twins_terms(signs, signs)
    assert on_diagonal < 1e-8
    assert off_diagonal < 1e-20


def test_the_order_of_samples_and_of_dimensions_does_not_matter() -> None:
    z_a, z_b = embeddings(16, 6)
    expected = barlow_twins_loss(z_a, z_b, LAMBDA)
    rows, columns = torch.randperm(16), torch.randperm(6)
    got = barlow_twins_loss(z_a[rows][:, columns], z_b[rows][:, columns], LAMBDA)
    assert relative_error(got, expected) < 1e-12


def test_a_constant_dimension_costs_one_and_stays_finite() -> None:
    z_a, z_b = embeddings(16, 1)
    constant = torch.full_like(z_a, 3.0)
    loss, grad_a, grad_b = value_and_gradients(barlow_twins_loss, constant, z_b)
    assert math.isclose(float(loss), 1.0)
    assert torch.isfinite(grad_a).all()
    assert torch.isfinite(grad_b).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_embeddings_do_not_overflow(dtype: torch.dtype) -> None:
    z_a, z_b = embeddings(2048, 16)
    expected = barlow_twins_loss(z_a, z_b, LAMBDA)
    with torch.autocast("cpu", torch.bfloat16):
        got = barlow_twins_loss((z_a * 100).to(dtype), (z_b * 100).to(dtype), LAMBDA)
    assert got.dtype == torch.float32
    assert relative_error(got, expected) < 1e-2


def test_module_weighs_the_redundancy_term() -> None:
    z = embeddings(16, 6)
    result = BarlowTwins(0.25)(*z)
    on_diagonal, off_diagonal = barlow_twins_terms(*z)
    assert torch.equal(result.loss, on_diagonal + 0.25 * off_diagonal)
    assert result.terms.keys() == {"on_diagonal", "off_diagonal"}


def test_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(4, 3\) and \(4, 2\)"):
        barlow_twins_loss(torch.zeros(4, 3), torch.zeros(4, 2), LAMBDA)
