"""How fast a run goes, and how much of the time it waits for data."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from bt_ray.config import Settings
from bt_ray.data.stream.batches import Batch


class Meter:
    """Measures the time between two readings; probes and checkpoints do not count."""

    def __init__(self, settings: Settings, *, start_step: int) -> None:
        self._global_batch = settings.data.global_batch
        self._last_step = start_step
        self._started = time.perf_counter()
        self._waited_s = 0.0
        self._paused_s = 0.0

    def timed(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The same batches; the time that each is waited for is added up."""
        iterator = iter(batches)
        while True:
            began = time.perf_counter()
            batch = next(iterator, None)
            self._waited_s += time.perf_counter() - began
            if batch is None:
                return
            yield batch

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time spent inside out of the measurement."""
        began = time.perf_counter()
        yield
        self._paused_s += time.perf_counter() - began

    def read(self, step: int) -> dict[str, float]:
        """Images/s of all workers and the share of time spent waiting, since the last reading."""
        elapsed = time.perf_counter() - self._started - self._paused_s
        num_steps = step - self._last_step
        measures = {
            "time/images_per_s": num_steps * self._global_batch / elapsed,
            "time/data_wait_share": min(1.0, self._waited_s / elapsed),
            "time/step_s": elapsed / num_steps,
        }
        self._last_step, self._started = step, time.perf_counter()
        self._waited_s = self._paused_s = 0.0
        return measures
