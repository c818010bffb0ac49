"""Less memory for more arithmetic: what is computed twice, and what must not move twice."""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint

from bt_ray.errors import SettingsError


class RecomputedBlocks(nn.Sequential):
    """Blocks of which autograd keeps the inputs; backward computes each block once more.

    Its second forward draws the same random numbers and moves no running statistics. Names of
    parameters and buffers are those of the plain sequence.
    """

    def forward(self, x: Tensor) -> Tensor:
        """What the blocks make of `x`, one after the other."""
        for block in self:
            if self.training and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False, context_fn=partial(_contexts, block))
            else:
                x = block(x)
        return x


def recompute_blocks(encoder: nn.Module) -> None:
    """Replaces each sequence of blocks among the encoder's children by `RecomputedBlocks`.

    Those are the stages of a ResNet. What lies before and after them is kept as ever.

    Raises: SettingsError if there is no such sequence.
    """
    stages = find_stages(encoder)
    if not stages:
        raise SettingsError(
            "training.activation_checkpointing computes an encoder's blocks again, and "
            f"{type(encoder).__name__} has no nn.Sequential of blocks; leave it off."
        )
    for name, stage in stages.items():
        setattr(encoder, name, RecomputedBlocks(OrderedDict(stage.named_children())))


def find_stages(encoder: nn.Module) -> dict[str, nn.Sequential]:
    """The sequences of blocks among an encoder's children, by name."""
    return {name: part for name, part in encoder.named_children() if type(part) is nn.Sequential}


@contextmanager
def still_statistics(module: nn.Module) -> Iterator[None]:
    """Batch norms use the statistics of their batch as ever, and leave the running ones alone.

    They move by no share of the batch's: autograd saves the same tensors as if they did.
    """
    norms = [part for part in module.modules() if isinstance(part, _NormBase)]
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, tracked) in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, tracked


def _contexts(
    block: nn.Module,
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Those of the first forward and of the second."""
    return nullcontext(), still_statistics(block)
