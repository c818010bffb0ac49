import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bt_ray.config import ModelSettings
from bt_ray.model import winograd
from bt_ray.model.encoder import build_encoder
from bt_ray.model.winograd import WinogradConv2d, convolve, use_winograd


def gradients(convolution: object, x: Tensor, weight: Tensor, grad: Tensor) -> list[Tensor]:
    """Output, and gradients of input and weight."""
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    y = convolution(x, weight)  # type: ignore[operator]
    return [y.detach(), *torch.autograd.grad(y, (x, weight), grad)]


def direct(x: Tensor, weight: Tensor) -> Tensor:
    return functional.conv2d(x, weight, padding=1)


def draw(shape: tuple[int, int, int, int], kernels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images, a weight and a gradient of the output, in float64."""
    generator = torch.Generator().manual_seed(kernels)
    n, c, h, w = shape
    return (
        torch.randn(shape, generator=generator, dtype=torch.float64),
        torch.randn(kernels, c, 3, 3, generator=generator, dtype=torch.float64) / (3 * c**0.5),
        torch.randn(n, kernels, h, w, generator=generator, dtype=torch.float64),
    )


@pytest.mark.parametrize("shape", [(1, 1, 2, 2), (3, 4, 6, 4), (2, 3, 2, 8), (5, 2, 10, 6)])
@pytest.mark.parametrize("images_at_a_time", [1, 2, 8])
def test_it_is_the_convolution_and_its_gradients(
    shape: tuple[int, int, int, int], images_at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, weight, grad = draw(shape, 5)
    monkeypatch.setattr(winograd, "_PART_BYTES", 4 * 8 * x[0].numel() * images_at_a_time)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        laid = [t.contiguous(memory_format=memory_format) for t in (x, weight, grad)]
        torch.testing.assert_close(
            gradients(convolve, *laid), gradients(direct, *laid), rtol=1e-12, atol=1e-12
        )


def test_in_bf16_it_is_off_by_a_few_roundings() -> None:
    x, weight, grad = (t.bfloat16() for t in draw((8, 256, 8, 8), 256))
    exact = gradients(direct, x.double(), weight.double(), grad.double())
    for ours, torchs, truth in zip(
        gradients(convolve, x, weight, grad), gradients(direct, x, weight, grad), exact, strict=True
    ):
        off, torchs_off = ((t.double() - truth).norm() / truth.norm() for t in (ours, torchs))
        assert off < 5 * torchs_off < 0.015


def test_a_resnet_uses_it_where_it_gains_and_keeps_its_weights() -> None:
    encoder = build_encoder(ModelSettings(encoder="resnet18", stem="cifar"))
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    use_winograd(encoder)
    chosen = [name for name, m in encoder.named_modules() if isinstance(m, WinogradConv2d)]
    assert chosen == [
        f"{block}.{convolution}"
        for block in ("layer3.0", "layer3.1", "layer4.0", "layer4.1")
        for convolution in ("conv1", "conv2")
        if (block, convolution) not in {("layer3.0", "conv1"), ("layer4.0", "conv1")}
    ]
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def build_layer() -> nn.Conv2d:
    torch.manual_seed(0)
    layer = use_winograd(nn.Sequential(nn.Conv2d(256, 256, 3, padding=1, bias=False)))[0]
    assert isinstance(layer, WinogradConv2d)
    return layer


def plain(layer: nn.Conv2d) -> nn.Conv2d:
    twin = copy.deepcopy(layer)
    twin.__class__ = nn.Conv2d
    return twin


@pytest.mark.parametrize(
    ("in_training", "dtype", "px"),
    [
        (False, torch.bfloat16, 4),
        (True, torch.float16, 4),
        (True, None, 4),
        (True, torch.bfloat16, 5),
    ],
)
def test_elsewhere_it_is_torchs_own(in_training: bool, dtype: torch.dtype | None, px: int) -> None:
    layer, x = build_layer().train(in_training), torch.randn(2, 256, px, px)
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        assert torch.equal(layer(x), plain(layer)(x))


def test_under_bf16_autocast_weights_stay_in_float32_and_so_do_their_gradients() -> None:
    layer, x = build_layer(), torch.randn(2, 256, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        y, torchs = layer(x), plain(layer)(x)
    y.float().sum().backward()
    assert y.dtype == torch.bfloat16
    assert not torch.equal(y, torchs)
    torch.testing.assert_close(y, torchs, rtol=0.05, atol=0.05)
    assert layer.weight.grad is not None
    assert layer.weight.grad.dtype == torch.float32
