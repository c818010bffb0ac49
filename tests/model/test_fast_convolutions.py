import copy
from collections.abc import Callable
from unittest.mock import Mock, patch

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bt_ray.config import ModelSettings
from bt_ray.model import winograd
from bt_ray.model.encoder import build_encoder
from bt_ray.model.fast_convolutions import (
    PatchesConv2d,
    SubsampledConv2d,
    WinogradConv2d,
    use_fast_convolutions,
)
from bt_ray.model.strided import convolve_patches, convolve_subsample

Way = Callable[[Tensor, Tensor], Tensor]


def without_stride(x: Tensor, weight: Tensor) -> Tensor:
    return functional.conv2d(x, weight, padding=1)


def of_stride_two(x: Tensor, weight: Tensor) -> Tensor:
    return functional.conv2d(x, weight, stride=2, padding=weight.shape[-1] // 2)


WAYS = {
    "winograd": (winograd.convolve, without_stride, 3),
    "patches": (convolve_patches, of_stride_two, 3),
    "subsample": (convolve_subsample, of_stride_two, 1),
}
"""Ours, torch's own, and the kernel's size."""


def gradients(convolution: Way, x: Tensor, weight: Tensor, grad: Tensor) -> list[Tensor]:
    """Output, and gradients of input and weight."""
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    y = convolution(x, weight)
    return [y.detach(), *torch.autograd.grad(y, (x, weight), grad[..., : y.shape[2], : y.shape[3]])]


def draw(
    shape: tuple[int, int, int, int], kernels: int, size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Images, a weight and a gradient as large as the images, in float64."""
    generator = torch.Generator().manual_seed(kernels)
    n, c, h, w = shape
    return (
        torch.randn(shape, generator=generator, dtype=torch.float64),
        torch.randn(kernels, c, size, size, generator=generator, dtype=torch.float64)
        / (size * c**0.5),
        torch.randn(n, kernels, h, w, generator=generator, dtype=torch.float64),
    )


@pytest.mark.parametrize(
    ("name", "images_at_a_time"),
    [("winograd", 1), ("winograd", 2), ("winograd", 8), ("patches", 8), ("subsample", 8)],
)
@pytest.mark.parametrize("shape", [(1, 1, 2, 2), (3, 4, 6, 4), (2, 3, 2, 8), (5, 2, 10, 6)])
def test_it_is_the_convolution_and_its_gradients(
    name: str,
    shape: tuple[int, int, int, int],
    images_at_a_time: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours, torchs, size = WAYS[name]
    x, weight, grad = draw(shape, 5, size)
    monkeypatch.setattr(winograd, "_PART_BYTES", 4 * 8 * x[0].numel() * images_at_a_time)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        laid = [t.contiguous(memory_format=memory_format) for t in (x, weight, grad)]
        torch.testing.assert_close(
            gradients(ours, *laid), gradients(torchs, *laid), rtol=1e-12, atol=1e-12
        )


@pytest.mark.parametrize(("name", "times"), [("winograd", 5), ("patches", 1.1), ("subsample", 1.1)])
def test_in_bf16_it_is_off_by_a_few_roundings(name: str, times: float) -> None:
    ours, torchs, size = WAYS[name]
    x, weight, grad = (t.bfloat16() for t in draw((8, 256, 8, 8), 256, size))
    exact = gradients(torchs, x.double(), weight.double(), grad.double())
    for our, their, truth in zip(
        gradients(ours, x, weight, grad), gradients(torchs, x, weight, grad), exact, strict=True
    ):
        off, torchs_off = ((t.double() - truth).norm() / truth.norm() for t in (our, their))
        assert off < times * torchs_off < 0.015


def test_a_resnet_uses_it_where_it_gains_and_keeps_its_weights() -> None:
    encoder = build_encoder(ModelSettings(encoder="resnet18", stem="cifar"))
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    use_fast_convolutions(encoder)
    chosen = {
        kind: [name for name, m in encoder.named_modules() if isinstance(m, kind)]
        for kind in (WinogradConv2d, PatchesConv2d, SubsampledConv2d)
    }
    assert chosen == {
        WinogradConv2d: [
            f"{block}.{convolution}"
            for block in ("layer3.0", "layer3.1", "layer4.0", "layer4.1")
            for convolution in ("conv1", "conv2")
            if (block, convolution) not in {("layer3.0", "conv1"), ("layer4.0", "conv1")}
        ],
        PatchesConv2d: ["layer3.0.conv1", "layer4.0.conv1"],
        SubsampledConv2d: [f"layer{number}.0.downsample.0" for number in (2, 3, 4)],
    }
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


LAYERS: dict[str, dict[str, int]] = {
    "winograd": {"kernel_size": 3, "padding": 1},
    "patches": {"kernel_size": 3, "padding": 1, "stride": 2},
    "subsample": {"kernel_size": 1, "stride": 2},
}


def build_layer(name: str) -> nn.Conv2d:
    torch.manual_seed(0)
    plain_layer = nn.Conv2d(256, 256, bias=False, **LAYERS[name])  # type: ignore[arg-type]
    layer = use_fast_convolutions(nn.Sequential(plain_layer))[0]  # type: ignore[index]
    assert isinstance(layer, WinogradConv2d | PatchesConv2d | SubsampledConv2d)
    return layer


def plain(layer: nn.Conv2d) -> nn.Conv2d:
    twin = copy.deepcopy(layer)
    twin.__class__ = nn.Conv2d
    return twin


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize(
    ("in_training", "dtype", "px"),
    [
        (False, torch.bfloat16, 4),
        (True, torch.float16, 4),
        (True, None, 4),
        (True, torch.bfloat16, 5),
    ],
)
def test_elsewhere_it_is_torchs_own(
    name: str, in_training: bool, dtype: torch.dtype | None, px: int
) -> None:
    layer, x = build_layer(name).train(in_training), torch.randn(2, 256, px, px)
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        assert torch.equal(layer(x), plain(layer)(x))


@pytest.mark.parametrize("name", WAYS)
def test_under_bf16_autocast_weights_stay_in_float32_and_so_do_their_gradients(name: str) -> None:
    layer, x = build_layer(name), torch.randn(2, 256, 4, 4)
    with (
        torch.autocast("cpu", torch.bfloat16),
        patch.object(type(layer), "way", Mock(wraps=WAYS[name][0])) as way,
    ):
        y, torchs = layer(x), plain(layer)(x)
    way.assert_called_once()
    y.float().sum().backward()
    assert y.dtype == torch.bfloat16
    assert y.shape == torchs.shape
    torch.testing.assert_close(y, torchs, rtol=0.05, atol=0.05)
    assert layer.weight.grad is not None
    assert layer.weight.grad.dtype == torch.float32
