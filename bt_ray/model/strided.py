"""Convolutions of stride 2 as products of matrices: of what a kernel sees at each of its places."""

from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.grad import conv2d_input


def convolve_subsample(x: Tensor, weight: Tensor) -> Tensor:
    """The 1×1 convolution of stride 2, in the arithmetic of x.

    Args:
      x: (n, c, h, w), h and w even.
      weight: (k, c, 1, 1), of any dtype.
    Returns: (n, k, h/2, w/2), channels last in memory.
    """
    return functional.conv2d(cast(Tensor, _Subsample.apply(x)), weight.to(x.dtype))


def convolve_patches(x: Tensor, weight: Tensor) -> Tensor:
    """The 3×3 convolution of stride 2 of x with a border of zeros, in the arithmetic of x.

    Args:
      x: (n, c, h, w), h and w even.
      weight: (k, c, 3, 3), of any dtype.
    Returns: (n, k, h/2, w/2), channels last in memory.
    """
    return cast(Tensor, _ConvolvePatches.apply(x, weight.to(x.dtype)))


class _Subsample(torch.autograd.Function):
    """Every second row and column, channels last in memory.

    Two slices do the same; their gradients are copied twice into zeros.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.shape = x.shape
        return x[:, :, ::2, ::2].contiguous(memory_format=torch.channels_last)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        n, c, h, w = ctx.shape
        grad_x = gradients[0].new_zeros(n, h, w, c).permute(0, 3, 1, 2)
        grad_x[:, :, ::2, ::2] = gradients[0]
        return grad_x


class _ConvolvePatches(torch.autograd.Function):
    """Forward and the weight's gradient; the input's is torch's own, which is as fast."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        patches = _cut_patches(x)
        ctx.shape = x.shape
        ctx.save_for_backward(weight, patches)
        return (patches @ _as_matrix(weight)).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        weight, patches = ctx.saved_tensors
        grad_x = conv2d_input(ctx.shape, weight, gradients[0], stride=2, padding=1)
        grad_output = gradients[0].permute(0, 2, 3, 1).flatten(0, 2)
        grad_weight = grad_output.T @ patches.flatten(0, 2)
        k, c = weight.shape[:2]
        return grad_x, grad_weight.view(k, 3, 3, c).permute(0, 3, 1, 2)


def _cut_patches(x: Tensor) -> Tensor:
    """Of images (n, c, h, w) the 3×3 places around every second one: (n, h/2, w/2, 9·c)."""
    images = functional.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 0, 1, 0))
    windows = images.unfold(1, 3, 2).unfold(2, 3, 2)  # (n, h/2, w/2, c, 3, 3)
    return windows.permute(0, 1, 2, 4, 5, 3).flatten(3)


def _as_matrix(weight: Tensor) -> Tensor:
    """Kernels (k, c, 3, 3) as a matrix (9·c, k)."""
    return weight.permute(0, 2, 3, 1).flatten(1).T
