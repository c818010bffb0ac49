"""A sweep as people see it: its budget, its trials while they run, what came of it."""

import time
from shlex import quote
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.live import Live
from rich.table import Table
from rich.text import Text

from pipelines.terminal import console

if TYPE_CHECKING:
    from bt_ray.tuning.budget import Budget
    from bt_ray.tuning.order import SweepOrder
    from bt_ray.tuning.progress import Row, SweepProgress
    from bt_ray.tuning.space import SearchSpace
    from bt_ray.tuning.sweep import SweepSummary

_EVERY_S = 0.5
_MOST_ROWS = 20


def print_budget(budget: "Budget", space: "SearchSpace", order: "SweepOrder") -> None:
    """What the sweep will take, in two lines."""
    what = f"{budget.trials} trials" + (f" more, {budget.ended} have ended" if budget.ended else "")
    console.print(
        f"{what}, {order.search} over {space.name}, and the winner with {budget.seeds} more "
        f"{'seed' if budget.seeds == 1 else 'seeds'}: at most "
        f"{(budget.trials + budget.seeds) * budget.epochs:,} epochs, {budget.epochs:,} each."
    )
    if budget.hours is None:
        console.print("How long that takes cannot be told: a step cannot be timed here.")
        return
    console.print(
        f"About {human(3600 * budget.hours)}, from steps of {budget.measured} "
        f"{'size' if budget.measured == 1 else 'sizes'} timed here, without start-up and probes."
    )


def human(seconds: float | None) -> str:
    """A time as people say it."""
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def shown(value: Any) -> str:
    """A drawn value in few characters."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


class TrialTable:
    """The trials while they run: a table on a terminal, a line for each end elsewhere."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._told: dict[int, str] = {}
        self._last = 0.0

    def __enter__(self) -> "TrialTable":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, progress: "SweepProgress") -> None:
        """Shows how it stands, at most twice a second."""
        if self._live is None:
            self._tell(progress)
        elif time.monotonic() - self._last > _EVERY_S:
            self._last = time.monotonic()
            self._live.update(build_table(self._title, progress), refresh=True)

    def _tell(self, progress: "SweepProgress") -> None:
        """A line for each trial whose state has changed."""
        for row in progress.rows:
            if self._told.get(row.number) != row.state:
                first = not self._told
                self._told[row.number] = row.state
                if not first or row.state == "running":
                    console.print(describe(row, progress), soft_wrap=True, highlight=False)


def describe(row: "Row", progress: "SweepProgress") -> str:
    """One trial and how the sweep stands, in a line."""
    drawn = ", ".join(f"{name}={shown(value)}" for name, value in row.params.items())
    line = f"trial {row.number}: {row.state}, {drawn}"
    if row.state in ("running", "waiting"):
        return line
    line += f"; {row.epochs:g} epochs in {human(row.seconds)}"
    if row.score is not None:
        line += f", score {row.score:.4f}"
    if row.reason is not None:
        line += f"; {row.reason}"
    best = progress.best
    if best is not None:
        line += f" [{progress.num_ended} of {progress.total}; best: trial {best.number}, "
        line += f"{best.score:.4f}; {human(progress.left_s)} left]"
    return line


def build_table(title: str, progress: "SweepProgress") -> Table:
    """The trials, the best first, then those that run, then the others."""
    best = progress.best
    caption = f"{progress.num_ended} of {progress.total} trials"
    if best is not None:
        caption += f" · best: trial {best.number}, {best.score:.4f}"
    caption += f" · {human(progress.left_s)} left"
    table = Table(title=title, caption=caption)
    names = list(dict.fromkeys(name for row in progress.rows for name in row.params))
    for column in ("trial", *names, "", "epochs", "score", "time"):
        table.add_column(column, justify="right")
    order = sorted(progress.rows, key=_rank)
    for row in order[:_MOST_ROWS]:
        table.add_row(
            str(row.number),
            *(shown(row.params[name]) if name in row.params else "" for name in names),
            row.state,
            f"{row.epochs:g} of {progress.epochs}",
            "" if row.score is None else f"{row.score:.4f}",
            human(row.seconds),
            style="bold" if row is best else None,
        )
    if len(order) > _MOST_ROWS:
        table.add_row(f"… and {len(order) - _MOST_ROWS} more")
    return table


def _rank(row: "Row") -> tuple[int, float]:
    states = ("running", "waiting", "finished", "pruned", "diverged", "failed")
    return states.index(row.state), -(row.score or 0.0)


def print_summary(summary: "SweepSummary") -> None:
    """All trials, then what came of the best."""
    from bt_ray.tuning.progress import SweepProgress, row_of

    rows = tuple(row_of(trial) for trial in summary.trials)
    epochs = round(max((row.epochs for row in rows), default=0))
    whole = SweepProgress(rows=rows, total=len(rows), epochs=epochs, left_s=0.0)
    console.print(build_table(f"{summary.name}: {summary.score} of held-out images", whole))
    for row in rows:
        if row.reason is not None:
            console.print(f"trial {row.number} {row.state}: {row.reason}", soft_wrap=True)
    verdict = summary.verdict
    if summary.best is None or verdict is None:
        console.print("No trial finished, so there is no winner.")
        return
    scores = ", ".join(f"{name} {value:.4f}" for name, value in verdict.scores.items())
    best = Text.assemble("Best: ", (f"trial {summary.best.number}", "bold"))
    console.print(best + f"; on the test images: {scores}")
    became = "is the champion" if verdict.is_champion else "is registered, but not the champion"
    model = Text.assemble((f"models:/{verdict.model_version}", "bold"), f" {became}.")
    console.print(model, soft_wrap=True)
    console.print(verdict.sentence, soft_wrap=True)
    console.print(f"Figures: {summary.paths['figures']}", soft_wrap=True)
    console.print(f"optuna-dashboard {quote(summary.paths['study'])}", soft_wrap=True)
