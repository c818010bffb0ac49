"""VICReg's terms are those of its paper's equations, however they are computed."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from bt_ray.methods.vicreg import vicreg_terms
from bt_ray.objective.forms import Form

Terms = tuple[Tensor, Tensor, Tensor]
SIZES = [(9, 4), (5, 8), (2, 3)]
"""N and D: more rows than dimensions, fewer, and no more than a variance takes."""


def embeddings(n: int, d: int) -> tuple[Tensor, Tensor]:
    """Some dimensions vary by more than γ, some by less."""
    generator = torch.Generator().manual_seed(100 * n + d)
    z = torch.randn(2, n, d, generator=generator, dtype=torch.float64)
    z_a, z_b = z * torch.linspace(0.2, 2, d, dtype=torch.float64) + 3
    return z_a.requires_grad_(), z_b.requires_grad_()


def naive_terms(z_a: Tensor, z_b: Tensor) -> Terms:
    """Eq. 1 to 5 as written, an entry at a time; s over D, as in Algorithm 1."""
    n, d = z_a.shape
    s, v, c = (z_a.new_zeros(()) for _ in range(3))
    for i, j in itertools.product(range(n), range(d)):
        s = s + (z_a[i, j] - z_b[i, j]) ** 2 / (n * d)
    for z in (z_a, z_b):
        means = [sum(z[i, j] for i in range(n)) / n for j in range(d)]
        for j, k in itertools.product(range(d), range(d)):
            products = ((z[i, j] - means[j]) * (z[i, k] - means[k]) for i in range(n))
            covariance = sum(products) / (n - 1)
            if j == k:
                v = v + (1 - (covariance + 1e-4).sqrt()).clamp(min=0) / d
            else:
                c = c + covariance**2 / d
    return s, v, c


@pytest.mark.parametrize("form", ["correlation", "gram"])
@pytest.mark.parametrize(("n", "d"), SIZES)
def test_terms_and_gradients_are_those_of_the_equations(n: int, d: int, form: Form) -> None:
    z = embeddings(n, d)
    got, expected = vicreg_terms(*z, [n], form), naive_terms(*z)
    torch.testing.assert_close(got, expected)
    assert float(expected[1].detach()) > 0
    for ours, theirs in zip(got, expected, strict=True):
        gradients = torch.autograd.grad(ours, z, retain_graph=True)
        torch.testing.assert_close(
            gradients, torch.autograd.grad(theirs, z, retain_graph=True), atol=1e-10, rtol=1e-7
        )


def test_float32_has_the_digits_that_its_inputs_have() -> None:
    """Of embeddings far from the origin, whose squares would lose them."""
    z = [x.detach() + 50 for x in embeddings(64, 16)]
    got = vicreg_terms(*(x.float() for x in z), [64])
    expected = vicreg_terms(*(x.float().double() for x in z), [64])
    for ours, theirs in zip(got, expected, strict=True):
        assert ours.dtype == torch.float32
        assert float(ours) == pytest.approx(float(theirs), rel=1e-4)


def test_a_point_costs_the_whole_deviation() -> None:
    """Collapse: no covariance and no distance, and γ − √ε for each view."""
    z = torch.full((6, 4), 2.0, dtype=torch.float64)
    s, v, c = vicreg_terms(z, z, [6])
    assert (float(s), float(c)) == (0, 0)
    assert float(v) == pytest.approx(2 * (1 - math.sqrt(1e-4)))


@pytest.mark.parametrize(("n", "d"), SIZES)
def test_it_is_what_lightly_has(n: int, d: int) -> None:
    """Its variance term is half the sum of both views', as in the authors' code."""
    lightly = pytest.importorskip("lightly.loss")
    z = embeddings(n, d)
    s, v, c = vicreg_terms(*z, [n])
    theirs = lightly.VICRegLoss(lambda_param=25.0, mu_param=2 * 25.0, nu_param=1.0)(*z)
    torch.testing.assert_close(25 * s + 25 * v + c, theirs)
