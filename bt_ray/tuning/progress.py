"""The state of a sweep: its trials, the best so far, the time that is left."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

from bt_ray.tuning.records import State, TrialRecord


@dataclass(frozen=True, kw_only=True)
class Row:
    """A trial that has begun; `epochs` and `score`: the latest that are known."""

    number: int
    params: dict[str, Any]
    state: State | Literal["running", "waiting"]
    epochs: float = 0.0
    score: float | None = None
    seconds: float = 0.0
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class SweepProgress:
    """The state of a sweep. `rows`: trials that have begun, by number; `total`: trials in all."""

    rows: tuple[Row, ...]
    total: int
    epochs: int
    """Of a whole trial."""
    left_s: float | None
    """Seconds until all trials have ended; none while there is nothing to estimate them from."""

    @property
    def best(self) -> Row | None:
        """The best one that has finished."""
        return max(
            (row for row in self.rows if row.state == "finished"),
            key=lambda row: row.score or 0.0,
            default=None,
        )

    @property
    def num_ended(self) -> int:
        """Trials that have ended, in whatever state."""
        return sum(row.state not in ("running", "waiting") for row in self.rows)


class Board:
    """Keeps count of the trials of one start of a sweep."""

    def __init__(
        self, ended: Iterable[TrialRecord], *, total: int, epochs: int, at_once: int
    ) -> None:
        self._rows = {record.number: row_of(record) for record in ended}
        self._began: dict[int, float] = {}
        self._total, self._epochs, self._at_once = total, epochs, at_once

    def begin(self, number: int, params: dict[str, Any]) -> None:
        """A trial's process has started, or started again."""
        self._began.setdefault(number, time.monotonic())
        known = self._rows.get(number, Row(number=number, params=params, state="running"))
        self._rows[number] = replace(known, state="running", reason=None)

    def wait(self, number: int) -> None:
        """A trial's process died; it will be started again."""
        if number in self._rows:
            self._rows[number] = replace(self._rows[number], state="waiting")

    def hear(self, number: int, epochs: float, score: float | None) -> None:
        """A trial has reported a score."""
        self._rows[number] = replace(self._rows[number], epochs=epochs, score=score)

    def end(self, record: TrialRecord) -> None:
        """A trial has ended."""
        self._rows[record.number] = row_of(record)
        self._began.pop(record.number, None)

    def look(self) -> SweepProgress:
        """The state of the sweep now."""
        now = time.monotonic()
        rows = tuple(
            replace(row, seconds=now - self._began[number]) if number in self._began else row
            for number, row in sorted(self._rows.items())
        )
        return SweepProgress(
            rows=rows, total=self._total, epochs=self._epochs, left_s=self._left(rows)
        )

    def _left(self, rows: tuple[Row, ...]) -> float | None:
        """The mean time of whole trials × those that are left, side by side."""
        whole = [row.seconds for row in rows if row.state in ("finished", "pruned")]
        if not whole:
            whole = [
                row.seconds * self._epochs / row.epochs
                for row in rows
                if row.state == "running" and row.epochs
            ]
        if not whole:
            return None
        running = [row for row in rows if row.state == "running"]
        ended = sum(row.state not in ("running", "waiting") for row in rows)
        done = sum(row.epochs / self._epochs for row in running)
        left = max(0.0, self._total - ended - done)
        return left * sum(whole) / len(whole) / max(1, self._at_once)


def row_of(record: TrialRecord) -> Row:
    """The row of a trial that has ended."""
    return Row(
        number=record.number,
        params=record.params,
        state=record.state,
        epochs=record.epochs,
        score=record.score,
        seconds=record.seconds,
        reason=record.reason,
    )
