"""Convolutions that CPUs compute faster than torch's own, in bf16 and in training.

oneDNN's direct convolutions keep a CPU's bf16 units busy where channels are few and images large;
elsewhere they take up to twice as long as what is here (`python -m benchmarks.convolutions`).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from bt_ray.model import strided, winograd

_FEWEST_FOR_WINOGRAD = 256
"""Channels: with fewer, changing the tiles costs what is saved by fewer products."""
_FEWEST_FOR_PATCHES = 128
"""Channels that come in: with fewer, patches are copied for longer than they are multiplied."""


class _FastConv2d(nn.Conv2d):
    """Computes `way` in training, under a CPU's bf16 autocast.

    At all other times, and for inputs of odd height or width, it is torch's own.
    """

    way: Callable[[Tensor, Tensor], Tensor]
    """(n, c, h, w) and weight → output; h and w are even."""

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) → (n, k, …)."""
        in_bf16 = (
            x.device.type == "cpu"
            and torch.is_autocast_enabled("cpu")
            and torch.get_autocast_dtype("cpu") == torch.bfloat16
        )
        if not (self.training and in_bf16) or x.shape[-2] % 2 or x.shape[-1] % 2:
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            return self.way(x.bfloat16(), self.weight)


class WinogradConv2d(_FastConv2d):
    """3×3, without stride."""

    way = staticmethod(winograd.convolve)


class PatchesConv2d(_FastConv2d):
    """3×3, of stride 2."""

    way = staticmethod(strided.convolve_patches)


class SubsampledConv2d(_FastConv2d):
    """1×1, of stride 2."""

    way = staticmethod(strided.convolve_subsample)


def use_fast_convolutions(module: nn.Module) -> nn.Module:
    """`module`, in which every convolution that gains by it is one of the above.

    Its parameters stay what and where they were.
    """
    for child in module.modules():
        if type(child) is nn.Conv2d and (fast := _choose(child)) is not None:
            child.__class__ = fast
    return module


def _choose(convolution: nn.Conv2d) -> type[_FastConv2d] | None:
    is_plain = (
        convolution.padding_mode == "zeros"
        and convolution.groups == 1
        and convolution.dilation == (1, 1)
        and convolution.bias is None
    )
    if not is_plain:
        return None
    match convolution.kernel_size, convolution.stride, convolution.padding:
        case (3, 3), (1, 1), (1, 1):
            fewest = min(convolution.in_channels, convolution.out_channels)
            return WinogradConv2d if fewest >= _FEWEST_FOR_WINOGRAD else None
        case (3, 3), (2, 2), (1, 1):
            return PatchesConv2d if convolution.in_channels >= _FEWEST_FOR_PATCHES else None
        case (1, 1), (2, 2), (0, 0):
            return SubsampledConv2d
    return None
