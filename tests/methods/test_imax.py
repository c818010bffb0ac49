"""IMAX's loss is the formula that the Barlow Twins paper has of it, and says when it has none."""

import pytest
import torch
from torch import Tensor

from bt_ray.config import Settings, check_pretraining, override
from bt_ray.errors import SettingsError, SingularCovarianceError
from bt_ray.methods.imax import log_determinants
from tests.methods.harness import build, first_batch, in_float64, settings_of

N, D = 12, 4


def embeddings() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(2, N, D, generator=generator, dtype=torch.float64)
    z_a, z_b = z[0] + 0.2 * z[1] + 3, z[0] - 0.1 * z[1]
    return z_a.requires_grad_(), z_b.requires_grad_()


def loss_of(z_a: Tensor, z_b: Tensor) -> Tensor:
    difference, total, is_singular = log_determinants(z_a, z_b, N)
    assert not is_singular
    return difference - total


def test_value_and_gradients_are_those_of_the_formula() -> None:
    """By determinants themselves; dividing by N − 1, as here, changes nothing."""
    z_a, z_b = embeddings()
    expected = (
        torch.linalg.det(torch.cov((z_a - z_b).T)).log()
        - torch.linalg.det(torch.cov((z_a + z_b).T)).log()
    )
    loss = loss_of(z_a, z_b)
    torch.testing.assert_close(loss, expected)
    both = (z_a, z_b)
    torch.testing.assert_close(torch.autograd.grad(loss, both), torch.autograd.grad(expected, both))


def test_no_linear_map_of_the_embeddings_changes_it() -> None:
    """Information does not depend on units: a network cannot win by shrinking."""
    z_a, z_b = (z.detach() for z in embeddings())
    mix = torch.randn(D, D, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    torch.testing.assert_close(loss_of(z_a @ mix, z_b @ mix), loss_of(z_a, z_b))
    assert loss_of(z_a, z_b) < loss_of(z_a, z_b.roll(1, 0))


def test_a_dimension_that_is_constant_is_singular() -> None:
    """In float32 too, where rounding might have left it a variance."""
    z_a, z_b = (z.detach().float().clone() for z in embeddings())
    z_a[:, 2] = z_b[:, 2] = 0.1
    assert log_determinants(z_a, z_b, N)[2]


def test_a_singular_covariance_stops_the_run_with_a_way_out(small_settings: Settings) -> None:
    """The loss is NaN at once; the sentence comes when measures are logged."""
    settings = override(settings_of("imax", small_settings), {"training.log_every_steps": 1})
    with in_float64():
        learner, batch = build(settings), first_batch(settings)
        embedded = learner.embed(batch)
        learner.objective(embedded)
        learner.after_step(1)  # nothing is amiss
        loss = learner.objective(tuple(torch.zeros_like(x) for x in embedded)).loss
    assert loss.isnan()
    with pytest.raises(SingularCovarianceError, match=r"fewer dimensions .*a larger data\.global"):
        learner.after_step(2)


def test_fewer_images_than_dimensions_are_refused(small_settings: Settings) -> None:
    settings = settings_of("imax", small_settings)
    check_pretraining(settings)
    with pytest.raises(SettingsError, match=r"data\.global_batch=12 must be above 12"):
        check_pretraining(override(settings, {"data.global_batch": 12}))
