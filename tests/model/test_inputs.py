"""The encoder's input: its levels, its layout, and what it costs a device."""

import pytest
import torch
from torch import Tensor

from bt_ray.config import DataSettings, Settings, override
from bt_ray.model import inputs
from bt_ray.model.inputs import normalize, to_input
from tests.gpu.trace import GPU, Trace, fake_gpu, needs_fake_gpu

RGB = DataSettings(train="digits")
SETTINGS = Settings(name="inputs", data=RGB)
LEVELS = torch.arange(256, dtype=torch.uint8).repeat(2 * 3 * 4).view(2, 3, 32, 32)


def as_written(levels: Tensor) -> Tensor:
    """ImageNet's mean and deviation, operation by operation."""
    mean = torch.tensor((0.485, 0.456, 0.406)).view(1, 3, 1, 1) * 255
    std = torch.tensor((0.229, 0.224, 0.225)).view(1, 3, 1, 1) * 255
    return (levels.float() - mean) / std


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
def test_levels_of_any_type_are_normalised_to_the_same_bits(dtype: torch.dtype) -> None:
    found = normalize(LEVELS.to(dtype), RGB)
    assert found.dtype == torch.float32
    assert torch.equal(found, as_written(LEVELS))


@pytest.mark.parametrize("channels_last", [True, False])
def test_the_layout_is_the_settings(channels_last: bool) -> None:
    settings = override(SETTINGS, {"training.channels_last": channels_last})
    layout = torch.channels_last if channels_last else torch.contiguous_format
    for levels in (LEVELS, LEVELS.contiguous(memory_format=torch.channels_last)):
        found = to_input(levels, settings)
        assert found.is_contiguous(memory_format=layout)
        assert torch.equal(found, as_written(LEVELS))


@needs_fake_gpu
def test_mean_and_deviation_are_copied_to_a_device_once() -> None:
    with fake_gpu(), Trace() as trace:
        levels = torch.empty(64, 3, 224, 224, dtype=torch.uint8, device=GPU)
        to_input(levels, SETTINGS)
        assert [crossing.way for crossing in trace.crossings] == ["cpu to cuda"]
        trace.reset()
        to_input(levels, SETTINGS)
    assert not trace.crossings
    assert trace.num_launches == 3  # subtraction, division, layout
    assert trace.bytes < 0.21e9


def test_what_was_first_asked_for_without_gradients_serves_those_who_want_them() -> None:
    inputs.statistics.cache_clear()
    with torch.inference_mode():
        normalize(LEVELS, RGB)
    levels = LEVELS.float().requires_grad_()
    normalize(levels, RGB).sum().backward()
    expected = 1 / (torch.tensor((0.229, 0.224, 0.225)) * 255)
    assert levels.grad is not None
    torch.testing.assert_close(levels.grad[0, :, 0, 0], expected)
