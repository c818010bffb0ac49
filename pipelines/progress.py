"""How far a run is: one live line in a terminal, now and then a plain line elsewhere."""

import time
from datetime import timedelta

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from bt_ray.config import Settings
from bt_ray.tracking.tracker import Measures
from pipelines.count_line import CountLine
from pipelines.terminal import console

_PLAIN_LINE_EVERY_S = 10.0


class ProgressLine:
    """A tracker that shows the newest measures of a run to the person waiting for it."""

    def __init__(self, settings: Settings) -> None:
        self._schedule = settings.schedule
        self._epochs: float = settings.schedule.epochs
        self._shown: dict[str, float] = {}
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("starting the workers", total=self._epochs)
        self._preparation: CountLine | None = None
        self._first: tuple[float, float] | None = None
        self._last_line = 0.0

    def __enter__(self) -> "ProgressLine":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show_preparation(self, phase: str, done: int, total: int) -> None:
        """Shows how many images are prepared; data that are shards already have none."""
        if self._preparation is None:
            self._preparation = CountLine(self._bar)
        self._preparation.show(phase, done, total)

    def log(self, step: int, measures: Measures, time_ms: int | None = None) -> None:
        """Shows the measures, together with the newest of those that are not among them."""
        self._shown.update(measures)
        epoch = self._shown.get("train/epoch", 0.0)
        if step and (now_at := measures.get("train/epoch")) and self._schedule.steps is not None:
            self._epochs = min(self._schedule.epochs, self._schedule.steps * now_at / step)
        self._bar.update(
            self._task, completed=epoch, total=self._epochs, description=self._describe(epoch)
        )
        now = time.monotonic()
        if self._first is None and epoch:
            self._first = (now, epoch)
        is_news = "probe/rankme" in measures or now - self._last_line > _PLAIN_LINE_EVERY_S
        if is_news and not console.is_terminal:
            self._last_line = now
            console.print(f"{self._describe(epoch)}{self._left(now, epoch)}", soft_wrap=True)

    def _describe(self, epoch: float) -> str:
        whole = f"{self._epochs:.1f}".removesuffix(".0")
        parts = [f"epoch {epoch:.1f} of {whole}"]
        score = ("knn/top1", "kNN {:.1%}")
        if score[0] not in self._shown:  # no labels
            score = ("probe/rankme", "RankMe {:.1f}")
        for name, words in (
            ("train/loss", "loss {:.1f}"),
            score,
            ("test/top1", "top-1 {:.1%}"),
            ("test/ap", "AP {:.1%}"),
            ("time/images_per_s", "{:,.0f} images/s"),
            ("time/data_wait_share", "{:.0%} waiting for data"),
            ("train/weight_rate", "rate {:.2g}"),
            ("system/worker_memory_megabytes", "{:,.0f} MB"),
            ("train/skipped_steps", "{:.0f} steps skipped"),
        ):
            if name in self._shown:
                parts.append(words.format(self._shown[name]))
        return " · ".join(parts)

    def _left(self, now: float, epoch: float) -> str:
        if self._first is None or epoch <= self._first[1]:
            return ""
        rate = (now - self._first[0]) / (epoch - self._first[1])
        return f" · {timedelta(seconds=round(rate * (self._epochs - epoch)))} left"
