"""Rows of length 1; means and spreads over the rows of all workers, of which none is sent.

Embeddings of thousands of dimensions are as many bytes as a small network, and a loss that is a
sum over rows needs the workers' sums alone. `PretrainingLearner.gathered` is for losses that
compare rows with each other.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from bt_ray.distributed.collectives import all_reduce_sum, sum_for_replicas
from bt_ray.objective.standardize import widen


def unit(x: Tensor) -> Tensor:
    """The rows of x (n, D) at length 1, float32 or better."""
    return normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=1)


def mean_of_rows(values: Tensor, num_rows: int) -> Tensor:
    """The mean of one number a row, for a computation that all workers repeat alike.

    Args:
      values: (n,) float, of this worker's rows.
      num_rows: N, the rows of all workers.
    Returns: scalar, the same on every worker.
    """
    return sum_for_replicas(values.sum()) / num_rows


def negative_cosine(predictions: Tensor, targets: Tensor, num_rows: int) -> Tensor:
    """−cos(p, z), averaged over the rows of all workers; the targets have no gradient.

    Args:
      predictions, targets: (n, D) float, of this worker's rows; computed in float32 or better.
      num_rows: N, the rows of all workers.
    Source: Chen and He 2021, Eq. 1; Grill et al. 2020, Eq. 2, which is 2 + 2 times as much.
    """
    wide = widen(predictions, targets.detach())
    return -mean_of_rows(cosine_similarity(*wide, dim=1), num_rows)


@torch.no_grad()
def spread_of_rows(embeddings: Tensor, num_rows: int) -> Tensor:
    """`pretraining.spread` of the rows of all workers, from those (n, D) of this one.

    The sums are float64: a spread near 0 is a small difference of them.
    """
    rows = normalize(embeddings.float(), dim=1)
    sums = torch.stack(
        [rows.sum(0, dtype=torch.float64), rows.square().sum(0, dtype=torch.float64)]
    )
    mean, square = all_reduce_sum(sums) / num_rows
    deviation = (square - mean.square()).clamp(min=0).sqrt().mean()
    scaled: Tensor = deviation * math.sqrt(rows.shape[1])
    return scaled
