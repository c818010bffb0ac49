"""Encoders from elsewhere on several workers: what one worker computes of the whole batch."""

import pytest
import torch
from torch import Tensor

from bt_ray.config import DataSettings, ModelSettings, Settings, ViewSettings
from bt_ray.model.twins import Twins, build_twins
from tests.workers import run_workers

ROWS, PX = 6, 32
ENCODERS = (
    "timm:mobilenetv3_small_050",  # batch norms with activations
    "timm:convnext_atto",  # layer norms
    "torchvision:shufflenet_v2_x0_5",
)


def _twins(name: str) -> Twins:
    torch.manual_seed(0)
    settings = Settings(
        name="twins",
        data=DataSettings(train="digits"),
        views=ViewSettings(image_px=PX),
        model=ModelSettings(encoder=name, projector_widths=(16, 12)),
    )
    return build_twins(settings).double()


def _views() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    view_a, view_b = torch.randn(2, ROWS, 3, PX, PX, generator=generator, dtype=torch.float64)
    return view_a, view_b


def _outcome(twins: Twins, rows: slice) -> list[Tensor]:
    """Embeddings of some rows, then gradients of a sum over them, then the buffers."""
    z_a, z_b = twins(*(view[rows] for view in _views()))
    (z_a * z_b).sum().backward()
    gradients = [p.grad for p in twins.parameters() if p.grad is not None]
    return [z_a.detach(), z_b.detach(), *gradients, *twins.buffers()]


def _share(rank: int, world_size: int, name: str) -> list[Tensor]:
    twins = _twins(name)
    twins.globalize_batch_norm()
    return _outcome(twins, slice(rank * ROWS // world_size, (rank + 1) * ROWS // world_size))


@pytest.mark.parametrize("name", ENCODERS)
def test_two_workers_compute_what_one_does(name: str) -> None:
    twins = _twins(name)
    whole = _outcome(twins, slice(0, ROWS))
    shares = run_workers(2, _share, name)
    num_buffers = len(list(twins.buffers()))
    assert len(whole) == 2 + len(list(twins.parameters())) + num_buffers
    for number, (expected, *ours) in enumerate(zip(whole, *shares, strict=True)):
        if number < 2:
            found = torch.cat(ours)
        elif number < len(whole) - num_buffers:
            found = ours[0] + ours[1]
        else:
            found = ours[1]
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-8)
