"""Carries a run's measures from the file that the worker writes to those who read them.

Training never waits for a server: the first worker appends lines to a file, and a thread of
the driver delivers them. A line whose step was delivered before, as happens after a restart
from a checkpoint, is not delivered again. One that a server took without being able to say so is,
and says the same time as before: MLflow keeps it once. A line that a kill or a full disk cut is
passed over.
"""

import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from bt_ray.errors import TrackingError
from bt_ray.json_files import read_json, read_line, write_json
from bt_ray.tracking.tracker import Measures, Tracker, take_apart

_log = logging.getLogger(__name__)
_PATIENCE_S = 10.0


class Courier:
    """Delivers the lines of a JsonLinesTracker's file to trackers while its context lasts."""

    def __init__(self, file: Path, trackers: Sequence[Tracker], *, every_s: float = 0.5) -> None:
        self._file, self._trackers, self._every_s = file, trackers, every_s
        self._record = record_of(file)
        self._last_steps: dict[str, int] = read_json(self._record) or {}
        self._position = 0
        self.undelivered: str | None = None
        """Once the context is left: why some lines were not delivered, and where they are."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._deliver_always, name="courier", daemon=True)

    def __enter__(self) -> "Courier":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        try:
            self.deliver()
        except (TrackingError, OSError) as away:
            self.undelivered = f"{away} Measures wait in {self._file} until the run is continued."
            _log.warning(self.undelivered)

    def deliver(self) -> None:
        """Delivers what has been written since the last time.

        Raises: TrackingError if a server does not answer; the next call begins there.
        """
        if not self._file.is_file():
            return
        before = dict(self._last_steps)
        try:
            with self._file.open("rb") as stream:
                stream.seek(self._position)
                while (line := stream.readline()).endswith(b"\n"):
                    step, time_ms, measures = take_apart(read_line(line) or {})
                    if step is not None:  # else the line was cut, and lost
                        self._pass_on(step, time_ms, measures)
                    self._position = stream.tell()
        finally:
            if self._last_steps != before:
                write_json(self._record, self._last_steps)

    def _pass_on(self, step: int, time_ms: int | None, measures: Measures) -> None:
        fresh = {k: v for k, v in measures.items() if step > self._last_steps.get(k, -1)}
        if fresh:
            for tracker in self._trackers:
                tracker.log(step, fresh, time_ms)
            self._last_steps.update(dict.fromkeys(fresh, step))

    def _deliver_always(self) -> None:
        while not self._stop.wait(self._every_s):
            try:
                self.deliver()
            except (TrackingError, OSError) as away:  # the latter of a full disk, for what is noted
                _log.warning("%s Trying again.", away)
                self._stop.wait(_PATIENCE_S)


def record_of(file: Path) -> Path:
    """Where it is noted what of a file of measures was delivered; without it all is, again."""
    return file.with_suffix(".delivered.json")
