"""Searches settings: `python -m pipelines.sweep SPACE PRESET [--trials N] [--key value …]`."""

import sys
from dataclasses import asdict, dataclass
from typing import Annotated

import tyro
from rich.table import Table

from bt_ray.config import Settings
from bt_ray.presets import PRESETS, preset
from pipelines.terminal import console, finish, guarded


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A search over one space of `tune_spaces`, on top of a preset."""

    trials: int = 8
    """Number of settings to try."""
    settings: Annotated[Settings, tyro.conf.arg(name="")]


def main() -> None:
    """Parses the command line, sweeps, prints the trials."""
    order = guarded(lambda: parse(sys.argv[1:]))
    from bt_ray.tuning.space import load_space
    from bt_ray.tuning.sweep import SweepSummary, sweep

    space = guarded(lambda: load_space(sys.argv[1]))
    console.print(f"{order.trials} trials of {space.name} on [bold]{order.settings.name}[/]")
    summary: SweepSummary = guarded(lambda: sweep(space, order.settings, trials=order.trials))
    table = Table(title=f"{space.name}: {summary.metric}")
    for column in ("trial", *space.parameters, "score", "minutes"):
        table.add_column(column, justify="right")
    for trial in sorted(summary.trials, key=lambda t: t.score or 0.0, reverse=True):
        shown = [f"{value:.4g}" if isinstance(value, float) else str(value)
                 for value in trial.changes.values()]  # fmt: skip
        score = "failed" if trial.score is None else f"{trial.score:.4f}"
        table.add_row(trial.name, *shown, score, f"{trial.seconds / 60:.1f}")
    console.print(table)
    winner = summary.winner
    console.print(
        f"Best: [bold]{summary.best.name}[/], registered as models:/{winner.model_version}"
    )
    finish(
        asdict(winner)
        | {
            "run_id": summary.run_id,
            "best": asdict(summary.best),
            "trials": [asdict(trial) for trial in summary.trials],
        }
    )


def parse(arguments: list[str]) -> Sweep:
    """The order given by a space, a preset and flags."""
    if len(arguments) < 2 or arguments[0].startswith("-") or arguments[1].startswith("-"):
        console.print(
            f"usage: python -m pipelines.sweep SPACE {{{','.join(PRESETS)}}} [--trials N] "
            "[--section.field value …]\n       SPACE: a file of tune_spaces, "
            "such as redundancy_weight"
        )
        sys.exit(0 if arguments[:1] in (["--help"], ["-h"]) else 2)
    return tyro.cli(
        Sweep,
        prog=f"python -m pipelines.sweep {arguments[0]} {arguments[1]}",
        args=arguments[2:],
        default=Sweep(settings=preset(arguments[1])),
    )


if __name__ == "__main__":
    main()
