"""Keeps checkpoints beside training, one at a time."""

import time
from concurrent.futures import Future, wait
from types import TracebackType

from torch import nn

from bt_ray.checkpoints.draft import draft_checkpoint
from bt_ray.checkpoints.host_copies import HostCopies
from bt_ray.checkpoints.state import TrainingState
from bt_ray.config import Settings
from bt_ray.distributed.collectives import sum_numbers
from bt_ray.training.background import done
from bt_ray.training.context import Context

_SECONDS_PER_MINUTE = 60


class Checkpointer:
    """Has the state of a run kept; training waits for a copy of it at most.

    Leaving the context waits for the checkpoint under way, also when training failed.
    """

    def __init__(
        self, state: TrainingState[nn.Module], settings: Settings, context: Context
    ) -> None:
        self._state, self._settings, self._context = state, settings, context
        self._copies = HostCopies()
        self._underway: Future[None] = done()
        self._last_s = time.monotonic()

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        if kind is None:
            self._underway.result()
        elif issubclass(kind, Exception):  # a second signal leaves at once
            wait([self._underway])

    def is_overdue(self) -> bool:
        """Whether the first worker holds that too many minutes have passed since the last one."""
        minutes = self._settings.training.checkpoint_every_minutes
        if minutes is None or self._context.rank != 0:
            return False
        return time.monotonic() - self._last_s >= minutes * _SECONDS_PER_MINUTE

    def keep(self) -> None:
        """Has the state of now kept, once the checkpoint before is. Called by every worker.

        Raises: what went wrong with the one before.
        """
        state, context = self._state, self._context
        state.stream_digest += sum_numbers(state.unsummed_digest, context.device)
        state.unsummed_digest = 0
        self._underway.result()
        write = None
        if context.rank == 0:
            write = draft_checkpoint(state, self._settings, self._copies).write
        self._underway = context.commit(state.step, write)
        self._last_s = time.monotonic()

    def look(self) -> None:
        """Raises what went wrong with the checkpoint under way, if that is known."""
        if self._underway.done():
            self._underway.result()
