"""Stopping a run from outside, at a checkpoint: by a signal, or when its time is up.

The driver puts a file into the run's folder. The first worker looks for it between two steps,
all of them agree, checkpoint and leave.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SECONDS_PER_HOUR = 3600


class StopRequest:
    """A request to stop a run: a file that every worker can see."""

    def __init__(self, run_folder: Path) -> None:
        self._file = run_folder / "stop"
        self.signal_number: int | None = None
        """The signal that made the request; none: the time was up, or there is no request."""
        self.was_made = False
        """Once `listening` is over: whether the request was made."""

    def is_made(self) -> bool:
        """Whether the run shall stop."""
        return self._file.exists()

    def make(self) -> None:
        """Asks the run to stop."""
        self._file.touch()

    @contextmanager
    def listening(self, max_hours: float | None) -> Iterator[None]:
        """Makes the request at SIGINT or SIGTERM, and after `max_hours`.

        A second signal leaves at once, without a checkpoint. Elsewhere than in the main
        thread, which alone may handle signals, only the time counts.
        """
        self._file.unlink(missing_ok=True)
        timer = None
        if max_hours is not None:
            timer = threading.Timer(max_hours * _SECONDS_PER_HOUR, self._file.touch)
            timer.daemon = True
            timer.start()
        in_main_thread = threading.current_thread() is threading.main_thread()
        before = {s: signal.signal(s, self._handle) for s in _SIGNALS if in_main_thread}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            if timer is not None:
                timer.cancel()
            self.was_made = self.is_made()
            self._file.unlink(missing_ok=True)

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self.signal_number is not None:
            raise SystemExit(128 + number)
        self.signal_number = number
        self._file.touch()
