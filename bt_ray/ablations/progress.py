"""How far an ablation is, run by run."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from bt_ray.ablations.result import Result


@dataclass(frozen=True, kw_only=True)
class Progress:
    """A run has come to its result."""

    label: str
    """Of its case."""
    result: Result
    is_new: bool
    """Whether it was made now."""
    done: int
    total: int
    """Of all runs, searches included."""
    seconds_left: float | None
    """None before the first new one."""


class Watch:
    """Tells of each result as it comes, and how long the others will take."""

    def __init__(self, total: int, on_progress: Callable[[Progress], None]) -> None:
        self._total, self._on_progress = total, on_progress
        self._done = self._num_new = 0
        self._began = time.monotonic()

    def collect(
        self, label_of: dict[str, str], results: Iterable[tuple[Result, bool]]
    ) -> dict[str, Result]:
        """The results by their keys.

        Args:
          label_of: label of a run's case by its result's key.
          results: with whether they are new.
        """
        found = {}
        for result, is_new in results:
            found[result.key] = result
            self._done += 1
            self._num_new += is_new
            self._on_progress(
                Progress(
                    label=label_of[result.key],
                    result=result,
                    is_new=is_new,
                    done=self._done,
                    total=self._total,
                    seconds_left=self._seconds_left(),
                )
            )
        return found

    def _seconds_left(self) -> float | None:
        if self._num_new == 0:
            return None
        elapsed = time.monotonic() - self._began
        return elapsed / self._num_new * (self._total - self._done)
