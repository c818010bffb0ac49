"""Where measures go: a narrow protocol, and versions of it that need no server."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

METRICS = "metrics.jsonl"
"""Name of the file of measures in a run's folder."""

Measures = Mapping[str, float]


class Tracker(Protocol):
    """Takes the measures of one run."""

    def log(self, step: int, measures: Measures) -> None:
        """Records measures made after `step` steps."""


class NullTracker:
    """Forgets everything."""

    def log(self, step: int, measures: Measures) -> None:
        """Does nothing."""


class MemoryTracker:
    """Keeps measures in `history`, metric name → step → value."""

    def __init__(self) -> None:
        self.history: dict[str, dict[int, float]] = {}

    def log(self, step: int, measures: Measures) -> None:
        """A step that comes again, after a restart, replaces what it was."""
        for name, value in measures.items():
            self.history.setdefault(name, {})[step] = value


class JsonLinesTracker:
    """Appends one line of JSON a step to a file, made visible at once."""

    def __init__(self, file: Path) -> None:
        self._file = file
        file.parent.mkdir(parents=True, exist_ok=True)

    def log(self, step: int, measures: Measures) -> None:
        """Appends `{"step": …, name: value, …}`."""
        with self._file.open("a") as stream:
            stream.write(json.dumps({"step": step, **measures}) + "\n")


def read_history(file: Path) -> dict[str, dict[int, float]]:
    """Metric name → step → value from a JsonLinesTracker's file, ordered by step.

    Steps that were repeated after a restart count once, as they were last.
    """
    memory = MemoryTracker()
    for line in file.read_text().splitlines() if file.is_file() else []:
        record = json.loads(line)
        memory.log(record.pop("step"), record)
    return {name: dict(sorted(points.items())) for name, points in memory.history.items()}
