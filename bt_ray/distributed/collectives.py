"""Sums over workers that autograd sees, and how gradients of parameters are added up.

The convention everywhere: each worker's loss is the loss of the global batch, equal on all
of them, and its backward yields the derivative of that one loss with respect to what the
worker holds. Parameters are held by all, so their gradients are summed over the workers.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class _SumOverWorkers(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        ctx.group = group
        return all_reduce_sum(x, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return all_reduce_sum(gradients[0], ctx.group), None


class _SumForReplicas(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        return all_reduce_sum(x, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def all_reduce_sum(
    x: Tensor, group: dist.ProcessGroup | None = None, *, in_place: bool = False
) -> Tensor:
    """The sum of `x` over all workers, a new tensor; `x` itself where there is one worker.

    Args:
      in_place: whether `x`, which must be contiguous, becomes the sum.
    """
    if world_size(group) == 1:
        return x
    total = x if in_place else x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total, group=group)
    return total


def sum_over_workers(x: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """The sum of `x` over the workers, for use by each of them on its own rows.

    What depends on the sum differs between workers, so the gradient sums their shares.
    """
    return x if world_size(group) == 1 else _SumOverWorkers.apply(x, group)


def sum_for_replicas(x: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """The sum of `x` over the workers, for a computation that all of them repeat alike.

    The gradient of the one result is already whole on every worker: it passes unchanged.
    """
    return x if world_size(group) == 1 else _SumForReplicas.apply(x, group)


def world_size(group: dist.ProcessGroup | None = None) -> int:
    """Number of workers, 1 where nothing is distributed."""
    return dist.get_world_size(group) if dist.is_initialized() else 1


def vote(flags: Sequence[bool], device: torch.device) -> list[bool]:
    """Of each flag, whether it holds on some worker; the same on all of them."""
    if world_size() == 1:
        return list(flags)
    return [bool(n) for n in all_reduce_sum(torch.tensor(flags, device=device).float()).tolist()]


def sum_numbers(number: int, device: torch.device) -> int:
    """The sum over all workers, modulo 2⁶⁴, of a whole number of each."""
    if world_size() == 1:
        return number % 2**64
    halves = torch.tensor([number % 2**32, number // 2**32 % 2**32], device=device)
    low, high = (int(half) for half in all_reduce_sum(halves))
    return (low + high * 2**32) % 2**64


def rank(group: dist.ProcessGroup | None = None) -> int:
    """This worker, from 0."""
    return dist.get_rank(group) if dist.is_initialized() else 0


def row_counts(x: Tensor, group: dist.ProcessGroup | None = None) -> list[int]:
    """How many rows each worker's `x` has, by rank."""
    if world_size(group) == 1:
        return [len(x)]
    mine = torch.tensor([len(x)], device=x.device)
    counts = [torch.zeros_like(mine) for _ in range(world_size(group))]
    dist.all_gather(counts, mine, group=group)
    return [int(count) for count in torch.cat(counts).tolist()]


def gather_rows(
    x: Tensor, counts: Sequence[int] | None = None, group: dist.ProcessGroup | None = None
) -> Tensor:
    """The rows of all workers' `x`, (n_w, …) each, n_w of any size, one after the other.

    Args:
      counts: every worker's n_w if they are known, which saves asking for them.
    """
    if world_size(group) == 1:
        return x
    counts = row_counts(x, group) if counts is None else counts
    padded = x.contiguous()
    if len(x) < max(counts):  # gloo gathers tensors of one size only
        padded = x.new_zeros((max(counts), *x.shape[1:]))
        padded[: len(x)] = x
    gathered = x.new_empty((len(counts), *padded.shape))
    _all_gather(gathered, padded, group)
    if min(counts) == max(counts):
        return gathered.flatten(0, 1)
    return torch.cat([part[:n] for part, n in zip(gathered, counts, strict=True)])


def gather_bytes(parts: Sequence[bytes], device: torch.device) -> list[bytes]:
    """All workers' strings of bytes, in the order of ranks; each may have any number of them.

    Args:
      device: where the workers' collective operations take place.
    """
    if world_size() == 1:
        return list(parts)
    lengths = gather_rows(torch.tensor([len(part) for part in parts], device=device).long())
    joined = torch.tensor(bytearray(b"".join(parts)), dtype=torch.uint8)
    content = gather_rows(joined.to(device)).cpu().numpy().tobytes()
    stops = lengths.cumsum(0)
    starts = (stops - lengths).tolist()
    return [content[start:stop] for start, stop in zip(starts, stops.tolist(), strict=True)]


def gather_for_replicas(
    x: Tensor, counts: Sequence[int], group: dist.ProcessGroup | None = None
) -> Tensor:
    """All workers' rows, as `gather_rows`, for a computation that all of them repeat alike.

    The gradient of the one result is whole on every worker: each keeps that of its own rows.

    Args:
      counts: every worker's n.
    """
    return x if world_size(group) == 1 else _GatherForReplicas.apply(x, counts, group)


class _GatherForReplicas(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, counts: Sequence[int], group: dist.ProcessGroup | None
    ) -> Tensor:
        ctx.counts, ctx.rank = list(counts), rank(group)
        return gather_rows(x, counts, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0].split(ctx.counts)[ctx.rank], None, None


def _all_gather(gathered: Tensor, mine: Tensor, group: dist.ProcessGroup | None) -> None:
    """Fills `gathered` (W, …) with every worker's `mine`; NCCL would copy a list's parts again."""
    if mine.device.type == "cpu":
        dist.all_gather(list(gathered), mine, group=group)
    elif hasattr(dist, "all_gather_single"):
        dist.all_gather_single(gathered, mine, group=group)
    else:  # its name before torch 2.14
        dist.all_gather_into_tensor(gathered, mine, group=group)


def rows_to_columns(
    x: Tensor, counts: Sequence[int], group: dist.ProcessGroup | None = None
) -> Tensor:
    """All workers' rows of this worker's share of the columns: (n, D) → (N, D/W).

    Consecutive columns in the order of ranks, one more on the first ones if W does not divide
    D. The gradient takes the way back.

    Args:
      counts: every worker's n.
    """
    return x if world_size(group) == 1 else _RowsToColumns.apply(x, counts, group)


class _RowsToColumns(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, counts: Sequence[int], group: dist.ProcessGroup | None
    ) -> Tensor:
        ctx.counts, ctx.group, ctx.widths = counts, group, _shares(x.shape[1], len(counts))
        n, width = len(x), ctx.widths[rank(group)]
        sent = _worker_by_worker(x, ctx.widths)
        received = x.new_empty(sum(counts) * width)
        dist.all_to_all_single(
            received, sent, [c * width for c in counts], [n * w for w in ctx.widths], group=group
        )
        return received.view(sum(counts), width)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        n, width = ctx.counts[rank(ctx.group)], gradients[0].shape[1]
        sent = gradients[0].contiguous().view(-1)
        sizes = [n * w for w in ctx.widths]
        received = sent.new_empty(sum(sizes))
        dist.all_to_all_single(
            received, sent, sizes, [c * width for c in ctx.counts], group=ctx.group
        )
        parts = zip(received.split(sizes), ctx.widths, strict=True)
        return torch.cat([part.view(n, w) for part, w in parts], dim=1), None, None


def _worker_by_worker(x: Tensor, widths: Sequence[int]) -> Tensor:
    """The columns (n, width) of each worker, one worker's after the other, in one dimension."""
    if min(widths) == max(widths):
        of_workers: Tensor = x.unflatten(1, (len(widths), -1))
        return of_workers.transpose(0, 1).reshape(-1)
    return torch.cat([part.reshape(-1) for part in x.split(widths, dim=1)])


def _shares(total: int, num_shares: int) -> list[int]:
    """`total` in consecutive shares that differ by one at most."""
    return [total // num_shares + (i < total % num_shares) for i in range(num_shares)]
