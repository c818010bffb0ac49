"""How gradients of parameters travel between workers."""

import pytest
import torch
from torch import Tensor, nn

from bt_ray.distributed.gradients import data_parallel
from tests.workers import run_workers


def _gradient(rank: int, world_size: int, dtype: torch.dtype | None, scale: float) -> Tensor:
    """Of a layer whose workers each hold other rows."""
    torch.manual_seed(0)
    layer = nn.Linear(7, 5)
    rows = torch.randn(2, 4, 7)
    step = data_parallel(layer, dtype)
    step(rows[rank]).square().sum().mul(scale).backward()
    assert layer.weight.grad is not None
    return layer.weight.grad


@pytest.mark.parametrize(
    ("dtype", "bound"), [(None, 1e-6), (torch.bfloat16, 2**-7), (torch.float16, 2**-10)]
)
def test_workers_gradients_are_summed_to_the_precision_they_travel_in(
    dtype: torch.dtype | None, bound: float
) -> None:
    """In float16 also where the plain sum would not fit: each share nearly fills its range."""
    torch.manual_seed(0)
    layer = nn.Linear(7, 5)
    layer(torch.randn(2, 4, 7)).square().sum().backward()
    assert layer.weight.grad is not None
    scale = 0.9 * 65504 / float(layer.weight.grad.abs().max()) * 1.5
    one, other = run_workers(2, _gradient, dtype, scale)
    expected = layer.weight.grad * scale
    assert expected.abs().max() > 65504
    assert torch.equal(one, other)
    assert float((one - expected).abs().max() / expected.abs().max()) <= bound


def test_what_does_not_fit_is_infinite_for_the_scaler_to_see() -> None:
    one, other = run_workers(2, _gradient, torch.float16, 1e6)
    assert not one.isfinite().all()
    assert torch.equal(one.isinf(), other.isinf())
