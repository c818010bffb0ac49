"""Sums of the parameters' gradients over the workers, during backward or after it."""

import warnings
from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bt_ray.distributed.collectives import world_size

_BUCKET_BYTES = 64 * 2**20
"""Large enough for the network to be fast, small beside the gradients: two are held at a time."""


def data_parallel(module: nn.Module, gradient_dtype: torch.dtype | None = None) -> nn.Module:
    """`module` with parameter gradients summed over the workers during backward.

    DistributedDataParallel averages; the gradient of a loss over the global batch is the sum
    of the workers' shares, so its reduction is replaced by a sum.

    Args:
      gradient_dtype: in which gradients travel; None: in their own. Each worker's share is divided
        by W and rounded before, and the sum, rounded too, multiplied after, so that float16 holds
        the sum if it holds the shares; what does not fit becomes infinite.
    """
    if world_size() == 1:
        return module
    with warnings.catch_warnings():
        # torch 2.14 calls it forward_sync_buffers, which the torch 2.7 of V100s does not know.
        warnings.simplefilter("ignore", FutureWarning)
        parallel = DistributedDataParallel(
            module, broadcast_buffers=False, gradient_as_bucket_view=True
        )
    parallel.register_comm_hook(gradient_dtype, _sum_bucket)
    return parallel


def _sum_bucket(
    dtype: torch.dtype | None,
    bucket: dist.GradBucket,  # type: ignore[name-defined]
) -> torch.futures.Future[Tensor]:
    gradients = bucket.buffer()
    future = dist.all_reduce(_to_send(gradients, dtype), async_op=True).get_future()
    if dtype is None:
        return future.then(lambda done: done.value()[0])
    return future.then(lambda done: _widen(done.value()[0], gradients))


def sum_gradients(module: nn.Module, dtype: torch.dtype | None = None) -> None:
    """Sums each parameter's gradient over the workers, all of which have the same ones.

    Args:
      dtype: in which gradients travel, as for `data_parallel`; None: in their own.
    """
    if world_size() == 1:
        return
    finish: Callable[[], None] | None = None
    for bucket in _buckets([p.grad for p in module.parameters() if p.grad is not None]):
        begun = _begin(bucket, dtype)
        if finish is not None:
            finish()
        finish = begun
    if finish is not None:
        finish()


def share_state(module: nn.Module) -> None:
    """Gives every worker the first one's parameters and buffers."""
    if world_size() == 1:
        return
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            sent = tensor.detach().clone(memory_format=torch.contiguous_format)
            dist.broadcast(sent, src=0)
            tensor.copy_(sent)


def _begin(gradients: list[Tensor], dtype: torch.dtype | None) -> Callable[[], None]:
    """Begins the sum, and returns what waits for it and puts it into the gradients."""
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    sent = _to_send(flat, dtype)
    work = dist.all_reduce(sent, async_op=True)

    def finish() -> None:
        work.wait()
        total = flat if dtype is None else _widen(sent, flat)
        parts = total.split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view(gradient.shape))

    return finish


def _buckets(gradients: list[Tensor]) -> Iterator[list[Tensor]]:
    """Consecutive gradients of one type, of about the same number of bytes."""
    bucket: list[Tensor] = []
    for gradient in gradients:
        size = sum(part.nbytes for part in bucket)
        if bucket and (size >= _BUCKET_BYTES or gradient.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket


def _to_send(gradients: Tensor, dtype: torch.dtype | None) -> Tensor:
    """What a worker adds to the sum: its gradients, or their W-th part in a narrower type."""
    return gradients if dtype is None else (gradients / world_size()).to(dtype)


def _widen(total: Tensor, into: Tensor) -> Tensor:
    """`into`, filled with the sum of all workers' narrow W-th parts, times W."""
    return into.copy_(total).mul_(world_size())
