"""Searches settings: `python -m pipelines.sweep SPACE PRESET [--trials N] [--key value …]`."""

import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from bt_ray.presets import PRESETS, starting_point
from pipelines.run_order import RunOrder, parse_order
from pipelines.terminal import command, console, finish, guarded, quiet_libraries

if TYPE_CHECKING:
    from bt_ray.tuning.sweep import SweepSummary

_USAGE = (
    f"usage: python -m pipelines.sweep SPACE {{{','.join(PRESETS)}}} [--trials N] "
    "[--section.field value …]\n"
    "       SPACE: a file of tune_spaces, such as redundancy_weight, or a path to one of yours, "
    "such as spaces/mine.py; one of a method's\n"
    "       own settings, such as simclr, goes with --objective.method simclr.\n"
    "       The preset may also be a run's settings file, FOLDER/settings.json.\n"
    "       python -m pipelines.sweep SPACE PRESET --help"
)


@command
def main() -> None:
    """Parses the command line, says what it will take, sweeps, prints the trials."""
    arguments = sys.argv[1:]
    if len(arguments) < 2 or arguments[0].startswith("-") or arguments[1].startswith("-"):
        console.print(_USAGE, soft_wrap=True)
        sys.exit(0 if arguments[:1] in (["--help"], ["-h"]) else 2)
    quiet_libraries()
    from bt_ray.tuning.budget import check_budget, forecast_sweep
    from bt_ray.tuning.order import SweepOrder
    from bt_ray.tuning.space import load_space
    from bt_ray.tuning.sweep import sweep
    from pipelines.sweep_table import TrialTable, print_budget, print_summary

    @dataclass(frozen=True, kw_only=True)
    class Sweep(SweepOrder, RunOrder):
        """A search over one space, on top of a preset."""

    order = guarded(
        lambda: parse_order(
            Sweep(settings=starting_point(arguments[1])),
            arguments[2:],
            prog=f"python -m pipelines.sweep {arguments[0]} {arguments[1]}",
            description=__doc__,
        )
    )
    space = guarded(lambda: load_space(arguments[0]))
    budget = guarded(lambda: forecast_sweep(space, order.settings, order))
    print_budget(budget, space, order)
    guarded(lambda: check_budget(budget, order))
    with TrialTable(f"{space.name} on {order.settings.name}") as table:
        summary: SweepSummary = guarded(
            lambda: sweep(space, order.settings, order, on_progress=table.show)
        )
    print_summary(summary)
    finish(record(summary))


def record(summary: "SweepSummary") -> dict[str, Any]:
    """The sweep for programs."""
    verdict = summary.verdict
    return {
        "run_id": summary.run_id,
        "steps": sum(trial.steps for trial in summary.trials),
        "images_per_s": None,
        "scores": {} if verdict is None else verdict.scores,
        "model_version": None if verdict is None else verdict.model_version,
        "paths": summary.paths,
        "name": summary.name,
        "score": summary.score,
        "best": None if summary.best is None else asdict(summary.best),
        "verdict": None if verdict is None else asdict(verdict),
        "trials": [asdict(trial) for trial in summary.trials],
    }


if __name__ == "__main__":
    main()
