"""Each ablation of the objective against its equation in float64, on any number of workers."""

import itertools
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bt_ray.config import ObjectiveSettings, Variant
from bt_ray.objective import barlow
from bt_ray.objective.ablations import AutoCorrelation, FeatureNormalization, to_sphere
from bt_ray.objective.build import build_objective
from bt_ray.objective.forms import Form, Way
from tests.objective.naive_ablations import loss_and_gradients
from tests.objective.test_barlow import embeddings
from tests.objective.test_exactness import BOUNDS, WAYS, Result, assert_exact, error
from tests.workers import run_workers

LAMBDA, TEMPERATURE = 0.05, 0.3
VARIANTS: tuple[Variant, ...] = get_args(Variant)
CASES: list[tuple[Variant, Form]] = [
    (variant, form)
    for variant, form in itertools.product(VARIANTS, ("correlation", "gram"))
    if (variant, form) != ("cross_entropy", "gram")
]


def build(variant: Variant, form: Form = "auto") -> nn.Module:
    return build_objective(
        ObjectiveSettings(
            variant=variant, form=form, redundancy_weight=LAMBDA, temperature=TEMPERATURE
        )
    )


def reference(variant: Variant, z_a: Tensor, z_b: Tensor) -> Result:
    z = (x.double().numpy() for x in (z_a, z_b))
    loss, grad_a, grad_b = loss_and_gradients(variant, *z, LAMBDA, TEMPERATURE)
    return torch.tensor(loss, dtype=torch.float64), torch.tensor(grad_a), torch.tensor(grad_b)


def value_and_gradients(objective: nn.Module, *z: Tensor) -> Result:
    z_a, z_b = (x.detach().clone().requires_grad_() for x in z)
    loss = objective(z_a, z_b).loss
    loss.backward()
    assert z_a.grad is not None
    assert z_b.grad is not None
    return loss.detach(), z_a.grad, z_b.grad


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_reference_is_the_derivative_of_its_value(variant: Variant) -> None:
    """Along a random direction, by a central difference."""
    z_a, z_b = (z.numpy() for z in embeddings(6, 3))
    _, grad_a, grad_b = loss_and_gradients(variant, z_a, z_b, LAMBDA, TEMPERATURE)
    step_a, step_b = 1e-5 * np.random.default_rng(0).standard_normal((2, 6, 3))
    ahead, behind = (
        loss_and_gradients(variant, z_a + s * step_a, z_b + s * step_b, LAMBDA, TEMPERATURE)[0]
        for s in (1, -1)
    )
    slope = 2 * ((grad_a * step_a).sum() + (grad_b * step_b).sum())
    assert ahead - behind == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize(("variant", "form"), CASES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("n", "d"), [(9, 2), (8, 5), (5, 12)])
def test_one_worker(variant: Variant, form: Form, dtype: torch.dtype, n: int, d: int) -> None:
    z_a, z_b = (z.to(dtype) for z in embeddings(n, d))
    got = value_and_gradients(build(variant, form), z_a, z_b)
    assert got[0].dtype == dtype
    assert_exact([got], reference(variant, z_a, z_b), BOUNDS[dtype])


def _all_ways(rank: int, _: int, rows: list[int], d: int) -> dict[tuple[Variant, Way], Result]:
    start = sum(rows[:rank])
    z = [x[start : start + rows[rank]] for x in embeddings(sum(rows), d)]
    told = {}
    for way in WAYS:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(barlow, "choose_way", lambda *_, way=way, **__: way)
            told |= {(v, way): value_and_gradients(build(v), *z) for v in VARIANTS}
    return told


@pytest.mark.parametrize("rows", [[9], [3, 6], [2, 6, 1]])
@pytest.mark.parametrize("d", [4, 14])
def test_workers_share_the_loss_and_gradients_of_the_global_batch(rows: list[int], d: int) -> None:
    """Different and unequal rows; D under and over N, and not a multiple of W."""
    told = run_workers(len(rows), _all_ways, rows, d)
    for variant in VARIANTS:
        expected = reference(variant, *embeddings(sum(rows), d))
        for way in WAYS:
            assert_exact([share[variant, way] for share in told], expected, BOUNDS[torch.float64])


class Largest(TorchDispatchMode):
    """Entries of the largest tensor that any operation made."""

    entries = 0

    def __torch_dispatch__(self, function: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self.entries = max(self.entries, tensor.numel())
        return made


@pytest.mark.parametrize("variant", VARIANTS)
def test_only_cross_entropy_needs_a_matrix_of_all_dimensions(variant: Variant) -> None:
    n, d = 4, 256
    with Largest() as largest:
        value_and_gradients(build(variant), *embeddings(n, d))
    if variant == "cross_entropy":
        assert largest.entries == d**2
    else:
        assert n * d <= largest.entries <= 5 * n * d


@pytest.mark.parametrize(("variant", "form"), CASES)
def test_constant_dimensions_stay_finite(variant: Variant, form: Form) -> None:
    z_a, z_b = embeddings(6, 9)
    z_a[:, 3] = z_b[:, 5] = 3.0
    got = value_and_gradients(build(variant, form), z_a, z_b)
    assert_exact([got], reference(variant, z_a, z_b), BOUNDS[torch.float64])
    nothing = value_and_gradients(build(variant, form), torch.ones(6, 9), torch.ones(6, 9))
    assert all(bool(torch.isfinite(x).all()) for x in nothing)


@pytest.mark.parametrize(("variant", "form"), CASES)
def test_half_precision_only_rounds_what_comes_in(variant: Variant, form: Form) -> None:
    z = [x.bfloat16() for x in embeddings(12, 8)]
    with torch.autocast("cpu", torch.bfloat16):
        loss = build(variant, form)(*z).loss
    assert loss.dtype == torch.float32
    assert error(loss, reference(variant, *z)[0]) < 1e-5


@pytest.mark.parametrize(("variant", "form"), CASES)
def test_a_stopped_gradient_leaves_the_other_as_it_was(variant: Variant, form: Form) -> None:
    z_a, z_b = embeddings(8, 5)
    expected = value_and_gradients(build(variant, form), z_a, z_b)[1]
    z_a = z_a.requires_grad_()
    build(variant, form)(z_a, z_b).loss.backward()
    assert z_a.grad is not None
    assert error(z_a.grad, expected) < 1e-12


@pytest.mark.parametrize(("variant", "form"), CASES)
def test_terms_are_told_without_gradient(variant: Variant, form: Form) -> None:
    """All that exist under the names of the paper's loss; they add up to what is minimised."""
    z_a, z_b = (z.requires_grad_() for z in embeddings(8, 5))
    result = build(variant, form)(z_a, z_b)
    assert not any(term.requires_grad for term in result.terms.values())
    minimised = {
        "invariance_only": {"on_diagonal": 1.0},
        "redundancy_only": {"off_diagonal": LAMBDA},
    }.get(variant, {"on_diagonal": 1.0, "off_diagonal": LAMBDA})
    total = sum(weight * float(result.terms[name]) for name, weight in minimised.items())
    assert float(result.loss.detach()) == pytest.approx(total, rel=1e-12)


def test_rows_on_the_sphere_have_length_root_d() -> None:
    lengths = to_sphere(embeddings(8, 5)[0]).norm(dim=1)
    torch.testing.assert_close(lengths, torch.full_like(lengths, 5**0.5), rtol=1e-4, atol=0)


def test_the_identity_can_be_reached_on_the_sphere() -> None:
    """Decorrelated signs lie on it as they are: both terms vanish, as with radius 1 they cannot."""
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=4)), dtype=torch.float64)
    assert float(FeatureNormalization(1.0)(signs, signs).loss) < 1e-8


def test_auto_correlation_counts_the_first_view_alone() -> None:
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=4)), dtype=torch.float64)
    copies = signs[:, [0, 0, 0, 0]]
    assert float(AutoCorrelation(1.0)(signs, copies).terms["off_diagonal"]) < 1e-8
    assert float(AutoCorrelation(1.0)(copies, signs).terms["off_diagonal"]) > 11


def test_shapes_that_differ_are_refused() -> None:
    for variant in VARIANTS:
        with pytest.raises(ValueError, match="two matrices of one shape"):
            build(variant)(torch.zeros(3, 4), torch.zeros(3, 5))
