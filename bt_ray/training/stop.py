"""Stopping a run from outside, at a checkpoint: by a signal, or when its time is up.

The driver knows the wish. The first worker hears of it (`training.recorder`) between two steps, all
of them agree, checkpoint and leave.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SECONDS_PER_HOUR = 3600


class StopRequest:
    """The wish that a run stops: of this process, or of one that `asked` asks.

    Args:
      asked: whether another process wishes so.
    """

    def __init__(self, asked: Callable[[], bool] = lambda: False) -> None:
        self._asked = asked
        self._was_made = False  # no lock: a signal may come while one is held
        self.signal_number: int | None = None
        """The signal that made the request; none: the time was up, or there is no request."""

    def is_made(self) -> bool:
        """Whether the run shall stop."""
        return self._was_made or self._asked()

    def make(self) -> None:
        """Asks the run to stop."""
        self._was_made = True

    @contextmanager
    def listening(self, max_hours: float | None) -> Iterator[None]:
        """Makes the request at SIGINT or SIGTERM, and after `max_hours`.

        A second signal leaves at once, without a checkpoint. Elsewhere than in the main
        thread, which alone may handle signals, only the time counts.
        """
        timer = None
        if max_hours is not None:
            timer = threading.Timer(max_hours * _SECONDS_PER_HOUR, self.make)
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

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self.signal_number is not None:
            raise SystemExit(128 + number)
        self.signal_number = number
        self.make()
