"""The terms of the loss from C itself, a D×D matrix on every worker (Eq. 1 and 2 as written)."""

import torch.distributed as dist
from torch import Tensor

from bt_ray.distributed.collectives import sum_for_replicas
from bt_ray.objective.standardize import Statistic, normalize, standardize


def correlation_terms(
    z_a: Tensor,
    z_b: Tensor,
    num_rows: int,
    group: dist.ProcessGroup | None = None,
    statistic: Statistic = "correlation",
) -> tuple[Tensor, Tensor]:
    """The two terms of `barlow.barlow_twins_terms`, from the matrix C.

    Args:
      z_a, z_b: (n, D) float: this worker's rows.
      num_rows: N, the rows of all workers.
      group: these workers; all by default.
      statistic: what C is the mean product of (`barlow.barlow_twins_terms`).
    Returns: two scalars, identical on every worker.
    """
    c = correlation_matrix(z_a, z_b, num_rows, group, statistic)
    diagonal = c.diagonal()
    on_diagonal = (1 - diagonal).square().sum()
    off_diagonal = c.square().sum() - diagonal.square().sum()
    return on_diagonal, off_diagonal


def correlation_matrix(
    z_a: Tensor,
    z_b: Tensor,
    num_rows: int,
    group: dist.ProcessGroup | None = None,
    statistic: Statistic = "correlation",
) -> Tensor:
    """C (D, D), summed over all workers. Every worker must compute the same loss from it.

    So the gradient of C is whole on every worker already (`collectives.sum_for_replicas`).
    """
    z_a, z_b = (normalize(z, num_rows, group, statistic) for z in (z_a, z_b))
    return sum_for_replicas(z_a.T @ z_b / num_rows, group)


def correlation_diagonal(
    z_a: Tensor, z_b: Tensor, num_rows: int, group: dist.ProcessGroup | None = None
) -> Tensor:
    """The diagonal of C (D,), without computing the rest; used like `correlation_matrix`."""
    z_a, z_b = (standardize(z, num_rows, group) for z in (z_a, z_b))
    return sum_for_replicas((z_a * z_b).sum(0) / num_rows, group)
