"""How far an ablation is, told after each of its runs."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from bt_ray.ablations.result import Result


@dataclass(frozen=True, kw_only=True)
class StudyProgress:
    """How far a study is once a run has come to its result."""

    label: str
    """Of the run's case."""
    result: Result
    is_new: bool
    """Whether the run was made now; else its result was in a file."""
    done: int
    total: int
    """Runs of the study, those of searches included."""
    seconds_left: float | None
    """Until all runs are done, at the mean time of the new ones; none before the first of those."""


class ResultCollector:
    """Collects results as they come, and tells of each.

    Args:
      total: results that are to come.
    """

    def __init__(self, total: int, on_progress: Callable[[StudyProgress], None]) -> None:
        self._total, self._on_progress = total, on_progress
        self._done = self._num_new = 0
        self._began = time.monotonic()

    def collect(
        self, label_of: dict[str, str], results: Iterable[tuple[Result, bool]]
    ) -> dict[str, Result]:
        """The results by their keys.

        Args:
          label_of: from a result's key to the label of its run's case.
          results: each with whether it is new.
        """
        found = {}
        for result, is_new in results:
            found[result.key] = result
            self._done += 1
            self._num_new += is_new
            self._on_progress(
                StudyProgress(
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
