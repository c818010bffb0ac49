"""Arithmetic of boxes and losses: single precision or better, whatever the convolutions have."""

import torch
from torch import Tensor


def widen(x: Tensor) -> Tensor:
    """`x` in float32, or in its own type if that is wider.

    Coordinates of a thousand pixels have no fractions in bfloat16.
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))
