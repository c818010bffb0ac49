"""Notices a loss that is not finite at the step it happens, without waiting for the device."""

import torch
from torch import Tensor

from bt_ray.distributed.collectives import gather_rows
from bt_ray.errors import NonFiniteLossError

_NEVER = 2**62


class FiniteWatch:
    """Remembers, on the device, the first step whose loss or own embeddings are not finite.

    Args:
      rate: the setting that may be too high.
    """

    def __init__(self, device: torch.device, rate: str = "optimizer.weight_rate") -> None:
        self._rate = rate
        self._loss = torch.full((1,), _NEVER, dtype=torch.int64, device=device)
        self._embeddings = self._loss.clone()

    def look(self, step: int, loss: Tensor, *embeddings: Tensor) -> None:
        """Takes note of a step; nothing is copied to the host."""
        self._loss = _first(self._loss, step, loss.detach())
        for z in embeddings:
            self._embeddings = _first(self._embeddings, step, z.detach())

    def check(self) -> None:
        """Called by every worker: the loss, and so the answer, is the same on all of them.

        Raises: NonFiniteLossError with the first such step and the workers it came from.
        """
        step = int(self._loss)
        if step == _NEVER:
            return
        firsts = gather_rows(self._embeddings).tolist()
        workers = [str(rank) for rank, first in enumerate(firsts) if first <= step]
        origin = (
            f"the embeddings of worker {', '.join(workers)} are not finite"
            if workers
            else "the embeddings of all workers are finite"
        )
        raise NonFiniteLossError(
            f"The loss is not finite at step {step}: {origin}. The last checkpoint is kept. Start "
            f"a run of another name with a lower {self._rate}, or with "
            "training.precision=bf16 or fp32."
        )


def _first(known: Tensor, step: int, values: Tensor) -> Tensor:
    """The earlier of the known step and this one, if some of its values are not finite."""
    return torch.where(values.isfinite().all(), known, known.clamp(max=step))
