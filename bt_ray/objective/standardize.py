"""Embeddings with mean 0 and variance 1 of each dimension over the global batch (Eq. 2)."""

from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from bt_ray.distributed.collectives import sum_over_workers

EPSILON = 1e-5
"""Added to each variance, as batch norm does. Eq. 2 has no ε and is undefined for a constant
dimension; with ε such a dimension has correlation 0 and a finite gradient."""

Statistic = Literal["correlation", "covariance", "moment"]
"""Of which embeddings Z_Aᵀ Z_B / N is taken: standardised (Eq. 2), centred, or unchanged."""


def normalize(
    z: Tensor, num_rows: int, group: dist.ProcessGroup | None, statistic: Statistic
) -> Tensor:
    """`z` (n, D): standardised, centred or unchanged, as `statistic` says."""
    if statistic == "moment":
        return z
    return (standardize if statistic == "correlation" else center)(z, num_rows, group)


def standardize(z: Tensor, num_rows: int, group: dist.ProcessGroup | None = None) -> Tensor:
    """`z` (n, D) with mean 0 and variance 1 of each dimension over the global batch.

    The variance is the biased one, so that a dimension's correlation with itself is 1.

    Args:
      num_rows: N, the rows of all workers.
    """
    centered = center(z, num_rows, group)
    variance = sum_over_workers(centered.square().sum(0), group) / num_rows
    return centered * torch.rsqrt(variance + EPSILON)


def center(z: Tensor, num_rows: int, group: dist.ProcessGroup | None = None) -> Tensor:
    """`z` (n, D) with mean 0 of each dimension over the global batch of `num_rows` rows."""
    return z - sum_over_workers(z.sum(0), group) / num_rows


def check_pair(z_a: Tensor, z_b: Tensor) -> None:
    """Raises ValueError unless both are matrices of the same shape."""
    if z_a.shape != z_b.shape or z_a.dim() != 2:
        raise ValueError(
            f"The embeddings must be two matrices of one shape, not {tuple(z_a.shape)} "
            f"and {tuple(z_b.shape)}."
        )


def widen(z_a: Tensor, z_b: Tensor) -> tuple[Tensor, Tensor]:
    """Both (n, D) in float32, or float64 if either is.

    Raises: ValueError if the shapes differ.
    """
    check_pair(z_a, z_b)
    wide = torch.promote_types(torch.promote_types(z_a.dtype, z_b.dtype), torch.float32)
    return z_a.to(wide), z_b.to(wide)
