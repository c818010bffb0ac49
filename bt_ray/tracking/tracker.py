"""Where measures go: a narrow protocol, and versions of it that need no server."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from bt_ray.json_files import append_line, read_lines

METRICS = "metrics.jsonl"
"""Name of the file of measures in a run's folder."""

TIME = "time_ms"
"""Of a line in that file: when it was written, in milliseconds since 1970."""

Measures = Mapping[str, float]


class Tracker(Protocol):
    """Takes the measures of one run."""

    def log(self, step: int, measures: Measures, time_ms: int | None = None) -> None:
        """Records measures made after `step` steps; at `time_ms` since 1970, or now."""


class NullTracker:
    """Forgets everything."""

    def log(self, step: int, measures: Measures, time_ms: int | None = None) -> None:
        """Does nothing."""


class MemoryTracker:
    """Keeps measures in `history`, metric name → step → value."""

    def __init__(self) -> None:
        self.history: dict[str, dict[int, float]] = {}

    def log(self, step: int, measures: Measures, time_ms: int | None = None) -> None:
        """A step that comes again, after a restart, replaces what it was."""
        for name, value in measures.items():
            self.history.setdefault(name, {})[step] = value


class Trackers:
    """Tells several trackers, one after the other."""

    def __init__(self, *trackers: Tracker) -> None:
        self._trackers = trackers

    def log(self, step: int, measures: Measures, time_ms: int | None = None) -> None:
        """Tells each of them."""
        for tracker in self._trackers:
            tracker.log(step, measures, time_ms)


class JsonLinesTracker:
    """Appends one line of JSON a step to a file, made visible at once."""

    def __init__(self, file: Path) -> None:
        self._file = file
        file.parent.mkdir(parents=True, exist_ok=True)

    def log(self, step: int, measures: Measures, time_ms: int | None = None) -> None:
        """Appends `{"step": …, "time_ms": …, name: value, …}`."""
        line = {"step": step, TIME: now_ms() if time_ms is None else time_ms, **measures}
        append_line(self._file, line)


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def read_history(file: Path) -> dict[str, dict[int, float]]:
    """Metric name → step → value from a JsonLinesTracker's file, ordered by step.

    Steps that were repeated after a restart count once, as they were last. A line that a kill or a
    full disk cut is passed over.
    """
    memory = MemoryTracker()
    for record in read_lines(file):
        step, time_ms, measures = take_apart(record)
        if step is not None:
            memory.log(step, measures, time_ms)
    return {name: dict(sorted(points.items())) for name, points in memory.history.items()}


def take_apart(record: Mapping[str, Any]) -> tuple[int | None, int | None, Measures]:
    """Step, time and measures of a line of that file; no step if it is no such line."""
    measures = {
        name: value
        for name, value in record.items()
        if name not in ("step", TIME) and isinstance(value, int | float)
    }
    step, time_ms = record.get("step"), record.get(TIME)
    return step if isinstance(step, int) else None, time_ms, measures
