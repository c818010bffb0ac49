"""The gradient of a step: of the batch at once, or with one part of it in memory at a time."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Protocol

import torch
from torch import Tensor, nn

from bt_ray.config import Settings
from bt_ray.config.training import part_rows
from bt_ray.data.stream.batches import Batch
from bt_ray.data.stream.plan import worker_rows
from bt_ray.distributed.collectives import rank, world_size
from bt_ray.distributed.gradients import data_parallel, share_state, sum_gradients
from bt_ray.methods.learner import Embedded, Learner, Outcome, WholeStep
from bt_ray.model.recompute import still_statistics
from bt_ray.precision import gradient_dtype


class Step(Protocol):
    """What makes of a batch a loss, and of the loss gradients, summed over the workers."""

    def forward(self, batch: Batch) -> Outcome:
        """The outcome of this worker's whole batch."""

    def backward(self, loss: Tensor) -> None:
        """Adds the gradients of the outcome's loss, which may have been scaled, to the weights'."""


def build_step(learner: Learner, settings: Settings) -> Step:
    """A step of this learner, in parts if `training.micro_batch` is less than a worker's rows."""
    dtype = gradient_dtype(settings.training)
    rows = worker_rows(settings.data.global_batch, world_size())[rank()]
    sizes = part_rows(rows, settings.training.micro_batch)
    if len(sizes) == 1:
        return StepAtOnce(data_parallel(WholeStep(learner), dtype))
    return StepInParts(learner, sizes, dtype)


class StepAtOnce:
    """The whole batch, as autograd does it; gradients are summed during backward."""

    def __init__(self, whole_step: nn.Module) -> None:
        self._whole_step = whole_step

    def forward(self, batch: Batch) -> Outcome:
        """The outcome of this worker's whole batch."""
        outcome: Outcome = self._whole_step(batch)
        return outcome

    def backward(self, loss: Tensor) -> None:
        """Lets autograd do it."""
        loss.backward()


class StepInParts:
    """The same loss and gradients with the activations of one part of the batch in memory.

    The parts are embedded without a graph. The objective of all rows is computed once, and its
    gradient by what was embedded. Then each part is embedded again, with a graph, through which
    its share of that gradient goes on. Random layers draw the same numbers both times, and running
    statistics move the first time only. Batch norms in `embed` see one part at a time (over all
    workers); those in `objective` see the whole batch.

    Args:
      sizes: rows of each part, the same on all workers.
      dtype: in which gradients travel between workers; None: in their own.
    Source: Gao, Zhang, Han and Callan 2021, section 3 (gradient cache).
    """

    def __init__(self, learner: Learner, sizes: tuple[int, ...], dtype: torch.dtype | None) -> None:
        self._learner, self._sizes, self._dtype = learner, sizes, dtype
        self._parts: list[Batch] = []
        self._drawn: list[list[Tensor]] = []
        self._embedded: Embedded = ()
        share_state(learner.module)

    def forward(self, batch: Batch) -> Outcome:
        """The outcome of this worker's whole batch."""
        self._parts, self._drawn = list(_cut(batch, self._sizes)), []
        pieces = []
        for part in self._parts:
            self._drawn.append(_random_state(_device(part)))
            with torch.no_grad():
                pieces.append(self._learner.embed(part))
        rows = [torch.cat(tensors) for tensors in zip(*pieces, strict=True)]
        self._embedded = tuple(r.requires_grad_(r.is_floating_point()) for r in rows)
        return self._learner.objective(self._embedded)

    def backward(self, loss: Tensor) -> None:
        """The objective's part first, then part after part; at the end the sum over workers."""
        loss.backward()
        shares = [
            [None] * len(self._sizes) if rows.grad is None else rows.grad.split(self._sizes)
            for rows in self._embedded
        ]
        self._embedded = ()
        with _forked_randomness(_device(self._parts[0])), still_statistics(self._learner.module):
            for part, drawn, gradients in zip(
                self._parts, self._drawn, zip(*shares, strict=True), strict=True
            ):
                _draw_again(_device(part), drawn)
                ways = [
                    (tensor, gradient)
                    for tensor, gradient in zip(self._learner.embed(part), gradients, strict=True)
                    if tensor.requires_grad and gradient is not None
                ]
                if not ways:  # a frozen encoder: so it is in all parts
                    break
                tensors, their_gradients = zip(*ways, strict=True)
                torch.autograd.backward(tensors, their_gradients)
        self._parts = []
        sum_gradients(self._learner.module, self._dtype)


def _cut(batch: Batch, sizes: tuple[int, ...]) -> Iterator[Batch]:
    """The batch in parts of consecutive rows; what is counted of a batch stays with the whole."""
    for first, stop in pairwise(accumulate(sizes, initial=0)):
        yield replace(
            batch,
            views=tuple(view[first:stop] for view in batch.views),
            small=None if batch.small is None else batch.small[first:stop],
            samples=batch.samples[first:stop],
            digest=0,
            replaced=(),
        )


def _device(batch: Batch) -> torch.device:
    return batch.views[0].device


def _random_state(device: torch.device) -> list[Tensor]:
    """Of torch's generators on the CPU and, if it is another, on the device."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return states


def _draw_again(device: torch.device, states: list[Tensor]) -> None:
    """Puts the generators back to where `_random_state` found them."""
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)


def _forked_randomness(device: torch.device) -> AbstractContextManager[None]:
    """A context after which the generators stand where they stood before."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])
