"""3×3 convolutions with four ninths of the multiplications.

A direct convolution keeps a CPU's bf16 units about as busy as they can be; to be faster is to
multiply less. Winograd's minimal filtering F(2×2, 3×3) makes 2×2 outputs of a 4×4 tile of inputs by

    Y = Aᵀ [ (G g Gᵀ) ⊙ (Bᵀ d B) ] A,

where ⊙, summed over the input channels, is a matrix product for each of the tile's 16 places;
directly it takes 36. G, A and B are small and fixed; tiles are changed along one axis after the
other, by adding and subtracting slices.

Source: Winograd 1980; Lavin and Gray 2016, section 4.1, where the signs of the last rows of Bᵀ and
Aᵀ are the other way around. Each change of tiles rounds once more: in bf16 the result is off by
three to four times as much as that of a direct convolution.
"""

from typing import Any, Protocol, cast

import torch
from torch import Tensor

_PART_BYTES = 2**22
"""Of tiles changed at a time."""
_G = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))


def convolve(x: Tensor, weight: Tensor) -> Tensor:
    """The 3×3 convolution of x with a border of zeros, in the arithmetic of x.

    Args:
      x: (n, c, h, w), h and w even.
      weight: (k, c, 3, 3), of any dtype.
    Returns: (n, k, h, w), channels last in memory.
    """
    return cast(Tensor, _Convolve.apply(x, weight))


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        kernels = _change_kernels(weight).to(x.dtype)
        tiles = _to_tiles(x, _make_tiles)
        ctx.save_for_backward(weight, kernels, tiles)
        return _to_images(_multiply(tiles, kernels.transpose(1, 2)), _sum_tiles)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        weight, kernels, tiles = ctx.saved_tensors
        grad_products = _to_tiles(gradients[0], _sum_tiles_back)
        grad_x = _to_images(_multiply(grad_products, kernels), _make_tiles_back)
        grad_kernels = _as_matrices(grad_products).transpose(1, 2) @ _as_matrices(tiles)
        return grad_x, _laid_like(weight, _change_kernels_back(grad_kernels.to(weight.dtype)))


def _laid_like(weight: Tensor, gradient: Tensor) -> Tensor:
    """The gradient in the weight's layout, in which DDP wants it."""
    return torch.empty_like(weight).copy_(gradient)


class _Change(Protocol):
    def __call__(self, x: Tensor, axis: int, /, out: Tensor | None = None) -> Tensor:
        """x, changed along an axis, in `out` where it is given."""


def _to_tiles(images: Tensor, change: _Change) -> Tensor:
    """Tiles (4, 4, n, h/2, w/2, c) of images (n, c, h, w): their rows changed, then columns.

    Some images at a time: what the first change makes is still in the cache for the second.
    """
    n, c, h, w = images.shape
    tiles = images.new_empty(4, 4, n, h // 2, w // 2, c)
    size = _images_at_a_time(tiles)
    parts = images.permute(0, 2, 3, 1).split(size)
    for part, out in zip(parts, tiles.split(size, dim=2), strict=True):
        change(change(part, -3), -2, out=out)
    return tiles


def _to_images(tiles: Tensor, change: _Change) -> Tensor:
    """Images (n, c, h, w), channels last in memory: of tiles as above, columns first."""
    n, h, w, c = tiles.shape[2:]
    images = tiles.new_empty(n, 2 * h, 2 * w, c)
    size = _images_at_a_time(tiles)
    for part, out in zip(tiles.split(size, dim=2), images.split(size), strict=True):
        change(change(part, -2), -3, out=out)
    return images.permute(0, 3, 1, 2)


def _images_at_a_time(tiles: Tensor) -> int:
    return max(1, _PART_BYTES // (tiles[:, :, 0].numel() * tiles.element_size()))


def _as_matrices(tiles: Tensor) -> Tensor:
    """A matrix (number of tiles, channels) for each place in a tile."""
    return tiles.view(16, -1, tiles.shape[-1])


def _multiply(tiles: Tensor, matrices: Tensor) -> Tensor:
    """Tiles (4, 4, n, h/2, w/2, c), by a matrix (c, k) for each of their places."""
    return (_as_matrices(tiles) @ matrices).view(*tiles.shape[:-1], -1)


def _change_kernels(weight: Tensor) -> Tensor:
    """G g Gᵀ of kernels (k, c, 3, 3): (16, k, c), the places in the tiles' order."""
    change = weight.new_tensor(_G)
    taps = weight.permute(3, 2, 0, 1).reshape(9, -1)
    return (torch.kron(change, change) @ taps).view(16, *weight.shape[:2])


def _change_kernels_back(grad: Tensor) -> Tensor:
    """Gᵀ u G, from a gradient (16, k, c) to that of the kernels (k, c, 3, 3)."""
    change = grad.new_tensor(_G)
    taps = torch.kron(change, change).T @ grad.flatten(1)
    return taps.view(3, 3, *grad.shape[1:]).permute(2, 3, 1, 0)


def _make_tiles(x: Tensor, axis: int, out: Tensor | None = None) -> Tensor:
    """Bᵀ d along an axis: (4, …), a tile of four for each two places, one before to one after.

    Made of rows, then of columns, tiles have their column as the first dimension.
    """
    even, odd = _pairs(x, axis)
    tiles = x.new_empty(4, *even.shape) if out is None else out
    before, sums, differences, after = tiles
    inner = even.shape[axis] - 1  # tiles but the one at the border, beyond which are zeros
    torch.sub(_first(odd, axis, inner), _last(odd, axis, inner), out=_last(before, axis, inner))
    torch.neg(_first(odd, axis, 1), out=_first(before, axis, 1))
    torch.add(even, odd, out=sums)
    torch.sub(odd, even, out=differences)
    torch.sub(_last(even, axis, inner), _first(even, axis, inner), out=_first(after, axis, inner))
    torch.neg(_last(even, axis, 1), out=_last(after, axis, 1))
    return tiles


def _make_tiles_back(tiles: Tensor, axis: int, out: Tensor | None = None) -> Tensor:
    """B t: each place gathers what the tiles had of it."""
    before, sums, differences, after = tiles
    x = _twice_as_long(sums, axis) if out is None else out
    even, odd = _pairs(x, axis)
    inner = even.shape[axis] - 1
    torch.sub(sums, differences, out=even).sub_(after)
    _last(even, axis, inner).add_(_first(after, axis, inner))
    torch.add(sums, differences, out=odd).sub_(before)
    _first(odd, axis, inner).add_(_last(before, axis, inner))
    return x


def _sum_tiles(products: Tensor, axis: int, out: Tensor | None = None) -> Tensor:
    """Aᵀ m along an axis: from (4, …) to the two outputs of each tile, side by side."""
    before, sums, differences, after = products
    outputs = _twice_as_long(sums, axis) if out is None else out
    even, odd = _pairs(outputs, axis)
    torch.add(sums, differences, out=even).add_(before)
    torch.sub(sums, differences, out=odd).add_(after)
    return outputs


def _sum_tiles_back(outputs: Tensor, axis: int, out: Tensor | None = None) -> Tensor:
    """A y: (4, …)."""
    even, odd = _pairs(outputs, axis)
    products = outputs.new_empty(4, *even.shape) if out is None else out
    products[0] = even
    torch.add(even, odd, out=products[1])
    torch.sub(even, odd, out=products[2])
    products[3] = odd
    return products


def _pairs(x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """The even and the odd places of an axis, which is counted from the end."""
    pairs = x.unflatten(axis, (-1, 2))
    return pairs.select(axis, 0), pairs.select(axis, 1)


def _twice_as_long(x: Tensor, axis: int) -> Tensor:
    """An empty tensor like x with two places for each of the axis."""
    shape = list(x.shape)
    shape[axis] *= 2
    return x.new_empty(shape)


def _first(x: Tensor, axis: int, places: int) -> Tensor:
    return x.narrow(axis, 0, places)


def _last(x: Tensor, axis: int, places: int) -> Tensor:
    return x.narrow(axis, x.shape[axis] - places, places)
