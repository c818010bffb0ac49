"""How many images are done: a live bar in a terminal, now and then a plain line elsewhere."""

import time
from datetime import timedelta

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from pipelines.terminal import console

_PLAIN_LINE_EVERY_S = 10.0


class CountLine:
    """Shows images done, images/s and time left, phase by phase.

    Args:
      bar: what it is a line of; none: a bar of its own.
    """

    def __init__(self, bar: Progress | None = None) -> None:
        self._bar = bar or Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("starting", total=None)
        self._phase = ""
        self._began, self._done_before, self._last_line = 0.0, 0, 0.0

    def __enter__(self) -> "CountLine":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, phase: str, done: int, total: int) -> None:
        """Tells that `done` of `total` images are through this phase."""
        now = time.monotonic()
        if phase != self._phase:  # what an earlier start did says nothing of the speed
            self._phase, self._began, self._done_before = phase, now, done
            self._bar.reset(self._task, total=total)
        seconds = now - self._began
        rate = (done - self._done_before) / seconds if seconds > 0 else 0.0
        words = f"{done:,} of {total:,} images {phase}"
        if rate:
            words += f" · {rate:,.0f} images/s"
        self._bar.update(self._task, completed=done, total=total, description=words)
        is_due = now - self._last_line > _PLAIN_LINE_EVERY_S or done == total
        if is_due and not console.is_terminal:
            self._last_line = now
            left = f" · {timedelta(seconds=round((total - done) / rate))} left" if rate else ""
            console.print(words + left, soft_wrap=True)
