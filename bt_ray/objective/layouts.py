"""The Gram form over workers: each takes some rows of the Gram matrices, or some columns of Ẑ."""

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
    """Both terms, from this worker's rows of K, (n, N), and the embeddings of all workers.

    All workers' embeddings, as they came, are gathered and kept for backward, which sends
    O(D) bytes: where each embedding's gradient must end orthogonal to its column.

    Args:
      z_a, z_b: (n, D) float: this worker's rows.
      counts: rows of each worker.
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
    """Both terms, from all rows of this worker's D/W columns; the workers' K are added up.

    The embeddings go there by an all-to-all, and their gradients back. With one worker this is
    the Gram form itself.

    Args:
      z_a, z_b: (n, D) float: this worker's rows.
      counts: rows of each worker.
    """
    z_a, z_b = (rows_to_columns(z, counts, group) for z in (z_a, z_b))
    share = Share(add_columns=partial(all_reduce_sum, group=group))
    return gram_terms(z_a, z_b, share, statistic)
