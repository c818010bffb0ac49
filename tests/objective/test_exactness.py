"""Value and every gradient of each way to compute the loss, against loops in float64."""

from typing import Any

import pytest
import torch
from torch import Tensor

from bt_ray.distributed.collectives import (
    row_counts,
    sum_for_replicas,
    sum_over_workers,
    world_size,
)
from bt_ray.objective import barlow
from bt_ray.objective.barlow import EPSILON, barlow_twins_loss
from bt_ray.objective.forms import Way
from tests.objective.naive import loss_and_gradients
from tests.objective.test_barlow import embeddings, naive_loss, value_and_gradients
from tests.workers import run_workers

LAMBDA = 5e-3
WAYS: list[Way] = ["correlation", "gram_rows", "gram_columns"]
BOUNDS = {torch.float64: 1e-10, torch.float32: 1e-4}
"""Normwise relative errors."""
Result = tuple[Tensor, Tensor, Tensor]


def reference(z_a: Tensor, z_b: Tensor) -> Result:
    loss, grad_a, grad_b = loss_and_gradients(z_a.numpy(), z_b.numpy(), LAMBDA)
    return torch.tensor(loss, dtype=torch.float64), torch.tensor(grad_a), torch.tensor(grad_b)


def error(got: Tensor, expected: Tensor) -> float:
    """Normwise and relative; a NaN compares as too large."""
    return float((got.double() - expected).norm() / expected.norm())


def assert_exact(shares: list[Result], expected: Result, bound: float) -> None:
    """The promise: one loss on every worker, and gradients that put together are the loss's."""
    for loss, _, _ in shares:
        assert error(loss, expected[0]) <= bound
    for view in (1, 2):
        assert error(torch.cat([share[view] for share in shares]), expected[view]) <= bound


def by(way: Way, *z: Tensor) -> Result:
    """The loss and gradients computed in one way, whatever the cost model says."""
    previous = barlow.choose_way
    barlow.choose_way = lambda *_, **__: way
    try:
        return value_and_gradients(barlow_twins_loss, *z)
    finally:
        barlow.choose_way = previous


def _mine(rank: int, rows: list[int], *z: Tensor) -> list[Tensor]:
    start = sum(rows[:rank])
    return [x[start : start + rows[rank]] for x in z]


def test_the_reference_is_the_derivative_of_its_value() -> None:
    z = embeddings(5, 3)
    for ours, of_autograd in zip(reference(*z), value_and_gradients(naive_loss, *z), strict=True):
        assert error(ours, of_autograd) < 1e-12


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("n", "d"), [(9, 1), (8, 5), (5, 24), (16, 16)])
def test_one_worker(way: Way, dtype: torch.dtype, n: int, d: int) -> None:
    z_a, z_b = (z.to(dtype) for z in embeddings(n, d))
    expected = reference(z_a.double(), z_b.double())
    assert_exact([by(way, z_a, z_b)], expected, BOUNDS[dtype])


def _all_ways(rank: int, _: int, rows: list[int], d: int) -> dict[tuple[Way, torch.dtype], Result]:
    z = _mine(rank, rows, *embeddings(sum(rows), d))
    dtypes = (torch.float64, torch.float32)
    return {(w, t): by(w, *(x.to(t) for x in z)) for w in WAYS for t in dtypes}


@pytest.mark.parametrize(
    ("rows", "d"), [([6, 6], 5), ([3, 9], 30), ([3, 3, 3, 3], 16), ([1, 5, 2, 4], 3), ([0, 7], 9)]
)
def test_several_workers(rows: list[int], d: int) -> None:
    """Equal and unequal rows, none at all, D that W does not divide, and D under W."""
    z = embeddings(sum(rows), d)
    expected = reference(*z)
    told = run_workers(len(rows), _all_ways, rows, d)
    for way, dtype in told[0]:
        assert_exact([share[way, dtype] for share in told], expected, BOUNDS[dtype])


def _faulty_loss(fault: str | None, z_a: Tensor, z_b: Tensor, lambda_: float) -> Tensor:
    """The loss in its plainest form, with one of the known faults."""
    num_rows = sum(row_counts(z_a))

    def total(x: Tensor) -> Tensor:
        return x * world_size() if fault == "statistics of the worker" else sum_over_workers(x)

    def standardize(z: Tensor, of: Tensor, n: int) -> Tensor:
        mean = total(of.sum(0)) / n
        freedom = n - 1 if fault == "Bessel's correction" else n
        variance = total((of - mean).square().sum(0)) / freedom
        return (z - mean) * torch.rsqrt(variance + EPSILON)

    if fault == "joint normalisation":
        both = torch.cat([z_a, z_b])
        z_a, z_b = (standardize(z, both, 2 * num_rows) for z in (z_a, z_b))
    else:
        z_a, z_b = (standardize(z, z, num_rows) for z in (z_a, z_b))
    c = sum_for_replicas(z_a.T @ z_b / num_rows)
    if fault == "gradient of 1/W":
        c = c / world_size() + (c - c / world_size()).detach()
    off_diagonal = c.square().sum() - c.diagonal().square().sum()
    return (1 - c.diagonal()).square().sum() + lambda_ * off_diagonal


def _faulty(rank: int, _: int, rows: list[int], fault: str | None) -> Result:
    def loss(*arguments: Any) -> Tensor:
        return _faulty_loss(fault, *arguments)

    return value_and_gradients(loss, *_mine(rank, rows, *embeddings(12, 5)))


@pytest.mark.parametrize(
    "fault",
    [
        None,
        "statistics of the worker",
        "joint normalisation",
        "Bessel's correction",
        "gradient of 1/W",
    ],
)
def test_known_faults_are_caught(fault: str | None) -> None:
    """By the same assertion, even at float32's bound; without a fault this variant passes it."""
    shares = run_workers(2, _faulty, [6, 6], fault)
    expected = reference(*embeddings(12, 5))
    if fault is None:
        assert_exact(shares, expected, BOUNDS[torch.float64])
        return
    with pytest.raises(AssertionError):
        assert_exact(shares, expected, BOUNDS[torch.float32])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 3e-3), (torch.float16, 4e-4)])
def test_half_precision_only_rounds_what_comes_in_and_goes_out(
    way: Way, dtype: torch.dtype, bound: float
) -> None:
    """Inside autocast, and with embeddings of 1e4, whose squares float16 does not hold.

    Against the loss of the same rounded embeddings the value is float32's; the gradients are
    rounded once, to the embeddings' type.
    """
    z = [(x * 3e3).to(dtype).requires_grad_() for x in embeddings(24, 12)]
    expected = reference(*(x.detach().double() for x in z))
    scale = 2.0**14  # float16 holds no gradient of such embeddings otherwise: a scaler's job
    with torch.autocast("cpu", dtype), pytest.MonkeyPatch.context() as patch:
        patch.setattr(barlow, "choose_way", lambda *_, **__: way)
        loss = barlow_twins_loss(z[0], z[1], LAMBDA)
    (loss * scale).backward()
    assert loss.dtype == torch.float32
    assert error(loss.detach(), expected[0]) < 1e-5
    for x, gradient in zip(z, expected[1:], strict=True):
        assert x.grad is not None
        assert error(x.grad.double() / scale, gradient) < bound


@pytest.mark.parametrize("way", WAYS)
def test_two_samples_and_one_dimension(way: Way) -> None:
    """Every correlation is 1 or −1, to ε, and the gradient what ε leaves of it: next to nothing."""
    z = embeddings(2, 1)
    for ours, expected in zip(by(way, *z), reference(*z), strict=True):
        assert float((ours - expected).abs().max()) < 1e-12


@pytest.mark.parametrize("way", WAYS)
def test_scale_and_shift_of_a_dimension_change_nothing_but_epsilon(way: Way) -> None:
    z_a, z_b = embeddings(6, 16)
    scale = torch.logspace(0, 3, 16, dtype=torch.float64)
    expected = by(way, z_a, z_b)
    got = by(way, z_a * scale + 7, z_b * scale.flip(0) - 3)
    assert error(got[0], expected[0]) < 40 * EPSILON
    # The gradient shrinks as its dimension grows.
    assert error(got[1] * scale, expected[1]) < 400 * EPSILON


@pytest.mark.parametrize("way", WAYS)
def test_permutations_of_rows_and_dimensions_carry_over(way: Way) -> None:
    z_a, z_b = embeddings(6, 16)
    rows, columns = torch.randperm(6), torch.randperm(16)
    loss, grad_a, grad_b = by(way, z_a, z_b)
    got = by(way, z_a[rows][:, columns], z_b[rows][:, columns])
    expected = (loss, grad_a[rows][:, columns], grad_b[rows][:, columns])
    assert_exact([got], expected, 1e-12)


@pytest.mark.parametrize("way", WAYS)
def test_decorrelated_identical_views_are_the_minimum(way: Way) -> None:
    """Seven orthogonal columns of a Hadamard matrix: C is the identity, to ε."""
    signs = torch.tensor([[1.0, 1], [1, -1]], dtype=torch.float64)
    z = torch.kron(torch.kron(signs, signs), signs)[:, 1:]
    loss, grad_a, grad_b = by(way, z, z)
    assert float(loss) < 7 * (2 * EPSILON) ** 2
    assert max(float(g.norm()) for g in (grad_a, grad_b)) < 1e-8


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_constant_dimensions_cost_one_each_and_stay_finite(way: Way, dtype: torch.dtype) -> None:
    z_a, z_b = (z.to(dtype) for z in embeddings(6, 16))
    z_a[:, 3] = z_b[:, 5] = 3.0
    got = by(way, z_a, z_b)
    assert_exact([got], reference(z_a.double(), z_b.double()), BOUNDS[dtype])
    nothing = by(way, torch.ones_like(z_a), torch.ones_like(z_b))
    assert float(nothing[0]) == 16.0
    assert all(bool(torch.isfinite(g).all()) for g in nothing[1:])


@pytest.mark.parametrize("way", WAYS)
def test_torch_agrees_that_the_gradient_is_the_derivative(way: Way) -> None:
    def loss(*z: Tensor) -> Tensor:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(barlow, "choose_way", lambda *_, **__: way)
            return barlow_twins_loss(z[0], z[1], 0.3)

    z = tuple(x.requires_grad_() for x in embeddings(4, 6))
    assert torch.autograd.gradcheck(loss, z)
