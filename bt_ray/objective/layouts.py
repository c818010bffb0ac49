"""The Gram form on many workers: each computes some rows of K, or uses some columns of Ẑ."""

from collections.abc import Sequence
from functools import partial

import torch.distributed as dist
from torch import Tensor

from bt_ray.distributed.collectives import all_reduce_sum, gather_rows, rank, rows_to_columns
from bt_ray.objective.gram import Share, gram_terms
from bt_ray.objective.standardize import Statistic


def row_terms(
    z_a: Tensor,
    z_b: Tensor,
    counts: Sequence[int],
    group: dist.ProcessGroup | None,
    statistic: Statistic,
) -> tuple[Tensor, Tensor]:
    """Both terms; each worker computes its rows (n, N) of K, from the embeddings of all workers.

    Forward gathers the embeddings of all workers, as they are, and keeps them for backward.
    Backward sends O(D) bytes only: the sums that make each column's gradient orthogonal to the
    column.

    Args:
      z_a, z_b: (n, D) float: this worker's rows.
      counts: rows of each worker.
      group: these workers; None: all.
      statistic: what C is the mean product of (`barlow.barlow_twins_terms`).
    Returns: two scalars, identical on every worker.
    """
    start = sum(counts[: rank(group)])
    share = Share(
        rows=slice(start, start + len(z_a)),
        gather=partial(gather_rows, counts=counts, group=group),
        add_rows=partial(all_reduce_sum, group=group),
    )
    return gram_terms(z_a, z_b, share, statistic)


def column_terms(
    z_a: Tensor,
    z_b: Tensor,
    counts: Sequence[int],
    group: dist.ProcessGroup | None,
    statistic: Statistic,
) -> tuple[Tensor, Tensor]:
    """Both terms; each worker computes K from D/W columns of all rows, and these K are added up.

    An all-to-all brings each worker its columns of all embeddings, and another one brings the
    gradients back. With one worker nothing is sent.

    Args:
      z_a, z_b: (n, D) float: this worker's rows.
      counts: rows of each worker.
      group: these workers; None: all.
      statistic: what C is the mean product of (`barlow.barlow_twins_terms`).
    Returns: two scalars, identical on every worker.
    """
    z_a, z_b = (rows_to_columns(z, counts, group) for z in (z_a, z_b))
    share = Share(add_columns=partial(all_reduce_sum, group=group))
    return gram_terms(z_a, z_b, share, statistic)
