"""Embeddings with mean 0 and variance 1 of each dimension over the global batch (Eq. 2)."""

import torch
import torch.distributed as dist
from torch import Tensor

from bt_ray.collectives import sum_over_workers

EPSILON = 1e-5
"""Added to each variance, as batch norm does; Eq. 2 has none and is undefined for a constant
dimension, which thus gets correlation 0 and no gradient that is not finite."""


def standardize(z: Tensor, num_rows: int, group: dist.ProcessGroup | None = None) -> Tensor:
    """`z` (n, D) with mean 0 and variance 1 of each dimension over the global batch.

    The variance is the biased one, so that a dimension's correlation with itself is 1.

    Args:
      num_rows: N, the rows of all workers.
    """
    centered = z - sum_over_workers(z.sum(0), group) / num_rows
    variance = sum_over_workers(centered.square().sum(0), group) / num_rows
    return centered * torch.rsqrt(variance + EPSILON)
