"""Sums of gradients over the workers where no backward pass of its own does them."""

from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn

from bt_ray.distributed.collectives import world_size

_BUCKET_BYTES = 64 * 2**20
"""Large enough for the network to be fast, small beside the gradients: two are held at a time."""


def sum_gradients(module: nn.Module, dtype: torch.dtype | None = None) -> None:
    """Sums each parameter's gradient over the workers, all of which have the same ones.

    Args:
      dtype: in which gradients travel, as for `collectives.data_parallel`; None: in their own.
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
    workers = world_size()
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    sent = flat if dtype is None else (flat / workers).to(dtype)
    work = dist.all_reduce(sent, async_op=True)

    def finish() -> None:
        work.wait()
        total = sent if dtype is None else sent.to(flat.dtype).mul_(workers)
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
