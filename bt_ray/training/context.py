"""What the loop needs to know of the place it runs in."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Protocol

import torch

from bt_ray.tracking.snapshots import Arrays

Measures = dict[str, float]


class Context(Protocol):
    """A worker's place: on a Ray cluster, in the calling process, in a test."""

    @property
    def rank(self) -> int:
        """This worker, from 0."""

    @property
    def device(self) -> torch.device:
        """What this worker computes on."""

    def report(self, step: int, measures: Measures) -> None:
        """Records measures made after `step` steps. Called by every worker."""

    def quarantine(self, rows: Sequence[int]) -> None:
        """Lists images that cannot be decoded. Called by the worker whose batch had them."""

    def keep(self, step: int, arrays: Arrays) -> None:
        """Keeps what a picture is drawn from. Called by every worker, with the same arrays."""

    def commit(self, step: int, write: Callable[[Path], None] | None) -> Future[None]:
        """Keeps a checkpoint beside training. Called by every worker, in the same order.

        Args:
          write: fills a folder with the checkpoint; the first worker alone brings it.
        Returns: at once, what is done when the checkpoint is kept, or raises why it is not.
        """

    def wants_stop(self) -> bool:
        """Whether this worker has heard that the run shall stop."""

    def must_leave(self) -> bool:
        """Whether this worker has heard that a node of the run will be taken away."""
