"""Symmetric twins, and those with a predictor on one side and a stopped gradient on the other."""

import pytest
import torch
from torch import Tensor

from bt_ray.config import DataSettings, ModelSettings, Settings
from bt_ray.model.twins import Twins, build_twins
from tests.workers import run_workers

PREDICTOR = (24, 12)


def build(predictor_widths: tuple[int, ...] | None, *, stop_gradient: bool) -> Twins:
    torch.manual_seed(0)
    model = ModelSettings(
        encoder="conv4",
        projector_widths=(16, 12),
        predictor_widths=predictor_widths,
        stop_gradient=stop_gradient,
    )
    return build_twins(_settings(model)).double()


def _settings(model: ModelSettings) -> Settings:
    return Settings(name="twins", data=DataSettings(train="digits"), model=model)


def views() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    view_a, view_b = torch.randn(2, 6, 3, 8, 8, generator=generator, dtype=torch.float64)
    return view_a, view_b


def test_without_either_both_views_are_treated_alike() -> None:
    twins, (view_a, view_b) = build(None, stop_gradient=False), views()
    z_a, z_b = twins(view_a, view_b)
    for swapped, z in zip(twins(view_b, view_a), (z_b, z_a), strict=True):
        assert torch.equal(swapped, z)
    assert twins.predictor is None


def test_the_predictor_follows_the_projector_of_the_first_view_alone() -> None:
    with_one, without = (build(widths, stop_gradient=False) for widths in (PREDICTOR, None))
    (p_a, p_b), (z_a, z_b) = with_one(*views()), without(*views())
    assert with_one.predictor is not None
    assert torch.equal(p_a, with_one.predictor(z_a))
    assert torch.equal(p_b, z_b)


@pytest.mark.parametrize("predictor_widths", [None, PREDICTOR])
def test_no_gradient_comes_from_the_second_view(predictor_widths: tuple[int, ...] | None) -> None:
    """Values stay; gradients are those of a loss that knows the second view as a constant."""
    stopped, whole = (build(predictor_widths, stop_gradient=s) for s in (True, False))
    z_a, z_b = stopped(*views())
    y_a, y_b = whole(*views())
    assert torch.equal(z_a, y_a)
    assert torch.equal(z_b, y_b)
    assert not z_b.requires_grad
    (z_a * z_b).sum().backward()
    (y_a * y_b.detach()).sum().backward()
    for ours, theirs in zip(stopped.parameters(), whole.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert torch.equal(ours.grad, theirs.grad)


def test_autocast_keeps_the_gradient_of_the_first_view() -> None:
    """Weights that it casts once serve both views, with and without gradient."""
    twins = build(PREDICTOR, stop_gradient=True).float()
    with torch.autocast("cpu", torch.bfloat16):
        z_a, z_b = twins(*(view.float() for view in views()))
    (z_a * z_b).sum().backward()
    assert all(parameter.grad is not None for parameter in twins.parameters())


def test_the_predictor_has_the_papers_form() -> None:
    """Two layers, batch norm and ReLU after the first, whatever the projector lacks."""
    model = ModelSettings(
        encoder="conv4",
        projector_widths=(12,),
        projector_batch_norm=False,
        predictor_widths=(24, 12),
    )
    predictor = build_twins(_settings(model)).predictor
    assert predictor is not None
    kinds = [type(module).__name__ for module in predictor.children()]
    assert kinds == ["Linear", "BatchNorm1d", "ReLU", "Linear"]


def _globalized(
    rank: int, world_size: int, predictor_widths: tuple[int, ...] | None, stop_gradient: bool
) -> list[Tensor]:
    """Embeddings of this worker's rows, and its gradients of a sum over them."""
    twins = build(predictor_widths, stop_gradient=stop_gradient)
    twins.globalize_batch_norm()
    rows = slice(rank * 6 // world_size, (rank + 1) * 6 // world_size)
    z_a, z_b = twins(*(view[rows] for view in views()))
    (z_a * z_b).sum().backward()
    return [z_a.detach(), z_b.detach(), *(p.grad for p in twins.parameters()), *twins.buffers()]  # type: ignore[list-item]


@pytest.mark.parametrize("predictor_widths", [None, PREDICTOR])
@pytest.mark.parametrize("stop_gradient", [False, True])
def test_workers_embed_as_one_does(
    predictor_widths: tuple[int, ...] | None, stop_gradient: bool
) -> None:
    """Whether the views pass at once or in turn: embeddings, gradients, running statistics."""
    twins = build(predictor_widths, stop_gradient=stop_gradient)
    z_a, z_b = twins(*views())
    (z_a * z_b).sum().backward()
    shares = run_workers(2, _globalized, predictor_widths, stop_gradient)
    whole = [z_a, z_b, *(p.grad for p in twins.parameters()), *twins.buffers()]
    num_buffers = len(list(twins.buffers()))
    for number, (expected, *ours) in enumerate(zip(whole, *shares, strict=True)):
        assert expected is not None
        if number < 2:
            found = torch.cat(ours)
        elif number < len(whole) - num_buffers:
            found = ours[0] + ours[1]
        else:
            found = ours[1]
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
