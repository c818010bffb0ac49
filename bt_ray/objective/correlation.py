"""The terms of the loss from C itself, a D×D matrix on every worker (Eq. 1 and 2 as written)."""

import torch.distributed as dist
from torch import Tensor

from bt_ray.collectives import sum_for_replicas
from bt_ray.objective.standardize import standardize


def correlation_terms(
    z_a: Tensor, z_b: Tensor, num_rows: int, group: dist.ProcessGroup | None = None
) -> tuple[Tensor, Tensor]:
    """Both terms of the global batch; `barlow.barlow_twins_terms` says what they are.

    Args:
      z_a, z_b: (n, D) float: this worker's rows.
      num_rows: N, the rows of all workers.
    """
    z_a, z_b = (standardize(z, num_rows, group) for z in (z_a, z_b))
    c = sum_for_replicas(z_a.T @ z_b / num_rows, group)
    diagonal = c.diagonal()
    on_diagonal = (1 - diagonal).square().sum()
    off_diagonal = c.square().sum() - diagonal.square().sum()
    return on_diagonal, off_diagonal
