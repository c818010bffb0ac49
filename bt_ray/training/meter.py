"""How fast a run goes, and how much of the time it waits for data."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from bt_ray.config import Settings
from bt_ray.data.stream.feed import Feed


class Meter:
    """Measures the time between two readings; probes and checkpoints do not count.

    Args:
      feed: of the batches; it knows how long it has waited for their blocks.
    """

    def __init__(self, settings: Settings, feed: Feed, *, start_step: int) -> None:
        self._global_batch = settings.data.global_batch
        self._last_step = start_step
        self._started = time.perf_counter()
        self._feed, self._waited_s = feed, feed.waited_s
        self._paused_s = 0.0

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time spent inside out of the measurement."""
        began = time.perf_counter()
        yield
        self._paused_s += time.perf_counter() - began

    def read(self, step: int) -> dict[str, float]:
        """Images/s of all workers, and the share of time in which data were waited for."""
        elapsed = time.perf_counter() - self._started - self._paused_s
        num_steps = step - self._last_step
        measures = {
            "time/images_per_s": num_steps * self._global_batch / elapsed,
            "time/data_wait_share": min(1.0, (self._feed.waited_s - self._waited_s) / elapsed),
            "time/step_s": elapsed / num_steps,
        }
        self._last_step, self._started = step, time.perf_counter()
        self._waited_s, self._paused_s = self._feed.waited_s, 0.0
        return measures
