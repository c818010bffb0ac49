"""What the kernels of both devices do with the views of a batch."""

from collections.abc import Sequence

import torch
from torch import Tensor


def split_moments(moments: Sequence[Tensor]) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """The first tensor of every view, and the second of every view."""
    return moments[: len(moments) // 2], moments[len(moments) // 2 :]


def room_for(parts: Sequence[Tensor]) -> Tensor:
    """An empty tensor for results of all parts, one after the other, in their layout."""
    first = parts[0]
    layout = torch.channels_last if is_channels_last(first) else torch.contiguous_format
    shape = (sum(len(part) for part in parts), *first.shape[1:])
    return torch.empty(shape, dtype=first.dtype, device=first.device, memory_format=layout)


def arrange(x: Tensor, like: Tensor) -> Tensor:
    """`x`, dense, in the layout of `like`: kernels that are given two read both in the first's."""
    layout = torch.channels_last if is_channels_last(like) else torch.contiguous_format
    return x.contiguous(memory_format=layout)


def is_channels_last(x: Tensor) -> bool:
    """Whether `x` is images that lie densely with their channels last."""
    return x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)


def count_rows(part: Tensor) -> int:
    """Over how many numbers each channel's statistics go."""
    return part.numel() // part.shape[1]
