"""Each formula against embeddings that are made to meet it, in float64."""

import math

import pytest
import torch
from torch import Tensor

from bt_ray.objective.barlow import EPSILON, barlow_twins_terms
from bt_ray.objective.expectations import (
    band,
    effective_rank,
    least_loss,
    least_off_diagonal,
    off_diagonal_of_rank,
    optimal_terms,
    random_terms,
    warning,
)

LAMBDA = 5e-3
SCALE = 1e3
"""Of all embeddings here, so that ε (1e-5, beside a variance of 1e6) does not blur the equations;
where it shall, the scale is 1."""


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return SCALE * torch.randn(*shape, generator=generator, dtype=torch.float64)


def terms(z_a: Tensor, z_b: Tensor) -> tuple[float, float]:
    on_diagonal, off_diagonal = barlow_twins_terms(z_a, z_b)
    return float(on_diagonal), float(off_diagonal)


def repeated_terms(num_samples: int, num_dimensions: int, repetitions: int) -> Tensor:
    """(repetitions, 2) terms of independent Gaussian views."""
    z = normal(repetitions, 2, num_samples, num_dimensions)
    return torch.tensor([terms(z_a, z_b) for z_a, z_b in z], dtype=torch.float64)


def participation_ratio(z: Tensor) -> float:
    """Of the eigenvalues of z's own correlation matrix."""
    eigenvalues = torch.linalg.eigvalsh(torch.corrcoef(z.T))
    return float(eigenvalues.sum() ** 2 / eigenvalues.square().sum())


def smallest_loss(
    num_samples: int, num_dimensions: int, lambda_: float
) -> tuple[float, float, float]:
    """Loss and terms where descent on free embeddings ends; asserts the floor at every step."""
    floor = least_loss(num_samples, num_dimensions, lambda_)
    z = (normal(2, num_samples, num_dimensions, seed=1) / SCALE).requires_grad_()
    optimizer = torch.optim.LBFGS([z], max_iter=150, history_size=20, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        on_diagonal, off_diagonal = barlow_twins_terms(z[0], z[1])
        value = on_diagonal + lambda_ * off_diagonal
        value.backward()
        assert float(value.detach()) >= floor * (1 - 1e-9)
        return value

    optimizer.step(loss)
    on_diagonal, off_diagonal = terms(z[0].detach(), z[1].detach())
    return on_diagonal + lambda_ * off_diagonal, on_diagonal, off_diagonal


@pytest.mark.parametrize(("n", "d"), [(16, 12), (8, 24), (3, 6)])
def test_random_views_have_the_expected_terms_and_deviations(n: int, d: int) -> None:
    """Means within 4 standard errors and deviations within 20 %, D under and over N − 1."""
    repetitions = 300
    expected, found = random_terms(n, d), repeated_terms(n, d, repetitions)
    mean, deviation = found.mean(0), found.std(0)
    error = 4 / math.sqrt(repetitions)
    assert abs(mean[0] - expected.on_diagonal) < error * expected.on_deviation
    assert abs(mean[1] - expected.off_diagonal) < error * expected.off_deviation
    assert deviation[0] == pytest.approx(expected.on_deviation, rel=0.2)
    assert deviation[1] == pytest.approx(expected.off_deviation, rel=0.2)
    loss = found[:, 0] + 0.5 * found[:, 1]
    assert float(loss.std()) == pytest.approx(expected.loss_deviation(0.5), rel=0.2)


def test_random_means_hold_for_any_data_paired_at_random() -> None:
    """Skewed, low-rank views: all 720 pairings of 6 rows have exactly the expected mean."""
    z_a, z_b = (normal(6, 2, seed=s) @ normal(2, 5, seed=s + 2) for s in (1, 2))
    z_a, z_b = z_a.square(), z_b.abs()
    pairings = torch.cartesian_prod(*[torch.arange(6)] * 6)
    pairings = pairings[(pairings.sort(1).values == torch.arange(6)).all(1)]
    assert len(pairings) == 720
    mean = torch.tensor([terms(z_a, z_b[p]) for p in pairings], dtype=torch.float64).mean(0)
    expected = random_terms(6, 5)
    assert float(mean[0]) == pytest.approx(expected.on_diagonal, rel=1e-6)
    assert float(mean[1]) == pytest.approx(expected.off_diagonal, rel=1e-6)


def test_matched_gaussian_views_keep_the_random_off_diagonal_term() -> None:
    """What is left of a perfect encoder's loss is the noise of a batch of N."""
    found = torch.tensor([terms(z, z) for z in normal(200, 16, 12)], dtype=torch.float64)
    assert float(found[:, 0].max()) < 1e-8
    assert float(found[:, 1].mean()) == pytest.approx(random_terms(16, 12).off_diagonal, rel=0.03)


@pytest.mark.parametrize(
    ("n", "d", "lambda_"),
    [(8, 16, LAMBDA), (8, 24, LAMBDA), (8, 16, 0.3), (7, 16, 0.3), (4, 9, 0.1), (8, 16, 0.6)],
)
def test_descent_reaches_the_floor_and_the_optimal_terms_and_not_less(
    n: int, d: int, lambda_: float
) -> None:
    loss, on_diagonal, off_diagonal = smallest_loss(n, d, lambda_)
    optimum = optimal_terms(n, d, lambda_)
    assert optimum.loss(lambda_) == least_loss(n, d, lambda_) > 0
    assert loss == pytest.approx(least_loss(n, d, lambda_), rel=0.01)
    assert on_diagonal == pytest.approx(optimum.on_diagonal, rel=0.05, abs=1e-3)
    assert off_diagonal == pytest.approx(optimum.off_diagonal, rel=0.05)


@pytest.mark.parametrize(("n", "d", "lambda_"), [(8, 16, 3.0), (3, 5, 0.1), (2, 5, 0.1)])
def test_the_bound_holds_where_it_is_not_reached(n: int, d: int, lambda_: float) -> None:
    """λ over 1, and batches too small; `smallest_loss` asserts the bound all the way down."""
    loss, _, _ = smallest_loss(n, d, lambda_)
    assert loss > 1.01 * least_loss(n, d, lambda_) > 0


def test_the_floor_holds_with_epsilon_too() -> None:
    """Embeddings whose variance is ε or less lie above it as well."""
    for variance in (EPSILON, EPSILON / 100):
        z = normal(8, 24) / SCALE * math.sqrt(variance)
        on_diagonal, off_diagonal = terms(z, z)
        assert on_diagonal + LAMBDA * off_diagonal > least_loss(8, 24, LAMBDA)


def test_enough_samples_let_everything_vanish() -> None:
    for n in (17, 40):
        assert least_off_diagonal(n, 16) == least_loss(n, 16, LAMBDA) == 0
    assert least_off_diagonal(16, 16) > 0
    assert least_loss(16, 16, LAMBDA) > 0
    loss, _, _ = smallest_loss(17, 16, LAMBDA)
    assert loss < 1e-3


def test_matched_views_reach_the_least_off_diagonal_term_and_not_less() -> None:
    """A harmonic frame has rank N − 1 = 6 and equal eigenvalues; other embeddings have more."""
    n, d = 7, 20
    angles = 2 * math.pi * torch.arange(d, dtype=torch.float64) / d
    frame = torch.cat([f(k * angles)[None] for k in (1, 2, 3) for f in (torch.cos, torch.sin)])
    centred = torch.linalg.qr(torch.cat([torch.ones(n, 1), torch.eye(n)[:, :-1]], 1).double()).Q
    z = SCALE * centred[:, 1:] @ frame
    on_diagonal, off_diagonal = terms(z, z)
    assert on_diagonal < 1e-8
    assert off_diagonal == pytest.approx(least_off_diagonal(n, d), rel=1e-6)
    assert effective_rank(off_diagonal, d) == pytest.approx(n - 1)
    for other in normal(50, n, d):
        assert terms(other, other)[1] > least_off_diagonal(n, d)


@pytest.mark.parametrize("rank", [1, 2, 5, 20])
def test_copies_of_r_independent_dimensions_have_effective_rank_r(rank: int) -> None:
    """20 dimensions that are copies of `rank` uncorrelated ones; 1 is total collapse."""
    n, d = 64, 20
    independent = torch.linalg.qr(torch.cat([torch.ones(n, 1).double(), normal(n, rank)], 1)).Q
    z = SCALE * independent[:, 1:].repeat(1, d // rank)
    on_diagonal, off_diagonal = terms(z, z)
    assert on_diagonal < 1e-8
    assert off_diagonal == pytest.approx(off_diagonal_of_rank(d, rank), rel=1e-6, abs=1e-6)
    assert effective_rank(off_diagonal, d) == pytest.approx(rank, rel=1e-6)


def test_effective_rank_is_the_participation_ratio_of_matched_views() -> None:
    z = normal(40, 3) @ normal(3, 30, seed=1) + 0.3 * normal(40, 30, seed=2)
    _, off_diagonal = terms(z, z)
    assert effective_rank(off_diagonal, 30) == pytest.approx(participation_ratio(z), rel=1e-6)


def test_a_low_effective_rank_is_collapse_even_of_views_that_do_not_match() -> None:
    """The bound holds for every mix, and is no idle one: it comes within 20 % of the ratio."""
    closest = math.inf
    for rank in (1, 2, 4):
        shared = normal(32, rank) @ normal(rank, 24, seed=1)
        for noise in (0.0, 0.5, 2.0):
            z_a, z_b = (shared + noise * normal(32, 24, seed=s) for s in (2, 3))
            reading = effective_rank(terms(z_a, z_b)[1], 24)
            bound = 1 / (1 / reading - 1 / 24)
            true_rank = math.sqrt(participation_ratio(z_a) * participation_ratio(z_b))
            assert true_rank <= bound
            closest = min(closest, bound / true_rank)
    assert closest < 1.2


def test_the_band_spans_from_the_floor_to_the_random_loss() -> None:
    assert band(8, 16, 0.3) == (least_loss(8, 16, 0.3), random_terms(8, 16).loss(0.3))
    for n, d in [(256, 512), (256, 8192), (2048, 8192), (2, 1)]:
        low, high = band(n, d, LAMBDA)
        assert 0 <= low < high


@pytest.mark.parametrize(("n", "d"), [(64, 32), (16, 48), (256, 8192), (2048, 8192), (4, 3)])
def test_healthy_terms_bring_no_warning(n: int, d: int) -> None:
    """The optimum, matched Gaussian views, and a run at a tenth of the possible rank."""
    optimum = optimal_terms(n, d, LAMBDA)
    assert warning(optimum.on_diagonal, optimum.off_diagonal, n, d, LAMBDA) is None
    assert warning(0.1 * d, random_terms(n, d).off_diagonal, n, d, LAMBDA) is None
    rank = max(2, 0.1 * min(n - 1, d))
    assert warning(0.3 * d, off_diagonal_of_rank(d, rank), n, d, LAMBDA) is None


def test_a_loss_below_the_floor_is_called_impossible() -> None:
    """As when the terms of 256 samples are judged as those of 64; rounding is let through."""
    optimum = optimal_terms(256, 1024, LAMBDA)
    sentence = warning(optimum.on_diagonal, optimum.off_diagonal, 64, 1024, LAMBDA)
    assert sentence is not None
    assert sentence.startswith("train/loss=")
    assert "bug" in sentence
    assert warning(0, 0.999 * least_off_diagonal(8, 9), 8, 9, LAMBDA) is None
    assert warning(0.0, -1e-3, 256, 64, LAMBDA) is None
    assert "bug" in str(warning(0.0, -100.0, 256, 64, LAMBDA))


def test_collapsing_embeddings_are_named() -> None:
    """One direction and a little noise, views matched or not; under 2 % of the possible rank."""
    z = normal(64, 1) @ normal(1, 32, seed=1) + 0.1 * normal(64, 32, seed=2)
    for other in (z, z + normal(64, 32, seed=3)):
        sentence = warning(*terms(z, other), 64, 32, LAMBDA)
        assert sentence is not None
        assert sentence.startswith("The embeddings are collapsing: train/off_diagonal=")
        assert "of 32;" in sentence
    assert "rank of 39.0 of 2047" in str(
        warning(10.0, off_diagonal_of_rank(8192, 39), 2048, 8192, LAMBDA)
    )
    assert warning(10.0, off_diagonal_of_rank(8192, 42), 2048, 8192, LAMBDA) is None


def test_views_that_are_not_matched_are_named() -> None:
    """Random views, and constant ones, whose correlations are 0."""
    random_views = terms(*normal(2, 256, 64))
    constant = terms(torch.full((256, 64), 3.0), torch.full((256, 64), 4.0))
    for found in (random_views, constant):
        sentence = warning(*found, 256, 64, LAMBDA)
        assert sentence is not None
        assert sentence.startswith("The views are not being matched: train/on_diagonal=6")
    assert warning(0.89 * 64, 20.0, 256, 64, LAMBDA) is None


@pytest.mark.parametrize(("n", "d"), [(2, 8), (3, 8), (64, 1), (64, 2)])
def test_no_collapse_is_called_where_no_rank_could_be_higher(n: int, d: int) -> None:
    """With a rank of 1 or 2 at most, total collapse is next to what there is."""
    assert warning(0.0, off_diagonal_of_rank(d, 1), n, d, LAMBDA) is None
