"""Sums over workers that autograd sees, and how gradients of parameters are added up.

The convention everywhere: each worker's loss is the loss of the global batch, equal on all
of them, and its backward yields the derivative of that one loss with respect to what the
worker holds. Parameters are held by all, so their gradients are summed over the workers.
"""

import warnings
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


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


def all_reduce_sum(x: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """The sum of `x` over all workers, a new tensor; `x` itself where there is one worker."""
    if world_size(group) == 1:
        return x
    total = x.clone(memory_format=torch.contiguous_format)
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


def any_worker(flag: bool, device: torch.device) -> bool:
    """Whether `flag` holds on some worker; the same on all of them."""
    if world_size() == 1:
        return flag
    return bool(all_reduce_sum(torch.tensor(float(flag), device=device)))


def gather_rows(x: Tensor) -> Tensor:
    """The rows of all workers' `x`, (n_w, …) each, n_w of any size, one after the other."""
    if world_size() == 1:
        return x
    counts = [torch.zeros(1, dtype=torch.int64, device=x.device) for _ in range(world_size())]
    dist.all_gather(counts, torch.tensor([len(x)], device=x.device))
    most = int(max(counts))
    padded = x.new_zeros((most, *x.shape[1:]))
    padded[: len(x)] = x
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(n)] for part, n in zip(parts, counts, strict=True)])


def data_parallel(module: nn.Module) -> nn.Module:
    """`module` with parameter gradients summed over the workers during backward.

    DistributedDataParallel averages; the gradient of a loss over the global batch is the sum
    of the workers' shares, so its reduction is replaced by a sum.
    """
    if world_size() == 1:
        return module
    with warnings.catch_warnings():
        # torch 2.14 calls it forward_sync_buffers, which the torch 2.7 of V100s does not know.
        warnings.simplefilter("ignore", FutureWarning)
        parallel = DistributedDataParallel(
            module, broadcast_buffers=False, gradient_as_bucket_view=True
        )
    parallel.register_comm_hook(None, _sum_bucket)
    return parallel


def _sum_bucket(
    _: None,
    bucket: dist.GradBucket,  # type: ignore[name-defined]
) -> torch.futures.Future[Tensor]:
    future = dist.all_reduce(bucket.buffer(), async_op=True).get_future()
    return future.then(lambda done: done.value()[0])
