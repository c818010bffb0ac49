"""Methods side by side: `python -m pipelines.compare PRESET [--methods A B …] [--seeds K] …`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from bt_ray.config import Method, Settings
from bt_ray.presets import PRESETS, starting_point
from pipelines.ablate import tell
from pipelines.terminal import (
    command,
    console,
    finish,
    guarded,
    interrupted_by_sigterm,
    quiet_libraries,
)

if TYPE_CHECKING:
    from bt_ray.comparison.outcome import Outcome


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Trains encoders by several methods, each with its own settings, and compares what they learn.

    Images, epochs, encoder and seeds are the same for all of them, and so is the search: each
    method's rate of weights is the best of --rates on held-out training images. A result is written
    as soon as it is known, and the same command goes on with those that are missing.
    """

    methods: tuple[Method, ...] = ()
    """Methods to compare, the others with the first one; none: all that there are."""
    rates: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)
    """Multiples of the preset's rate of weights that are tried for each method; a single one: it is
    taken, and nothing searched."""
    small_views: int = 0
    """Smaller views an image (multi-crop), of a second row for each method that takes them, such as
    SwAV; 0: no such row."""
    seeds: int = 2
    """Runs of each method; the first one has --training.seed, the others the next ones."""
    images: int | None = None
    """Training images that are used, drawn class by class; none: all."""
    linear: Literal["fast", "small", "paper"] = "fast"
    """How the linear classifier is fitted (`pipelines.evaluate linear`)."""
    at_once: int = 1
    """Runs side by side with --scaling.workers 0, each on its share of the cores, which makes each
    of them slower; with workers, runs have the cluster one after the other."""
    max_hours: float | None = None
    """Hours after which no further run is started; the same command goes on. None: no limit."""
    out: Path | None = None
    """Folder of the results and the page; none: `ablations` in the storage."""
    settings: Annotated[Settings, tyro.conf.arg(name="")]


@command
def main() -> None:
    """Parses the command line, makes the comparison, prints its tables."""
    order = guarded(lambda: parse(sys.argv[1:]))
    with interrupted_by_sigterm():
        finish(guarded(lambda: run(order)))


def parse(arguments: list[str]) -> Compare:
    """The order, given by a preset or a settings file, and flags."""
    if not arguments or arguments[0].startswith("-"):
        console.print(
            f"usage: python -m pipelines.compare {{{','.join(PRESETS)},SETTINGS.json}} "
            "[--methods A B …] [--seeds K] [--section.field value …]",
        )
        sys.exit(0 if arguments[:1] in (["--help"], ["-h"]) else 2)
    return tyro.cli(
        Compare,
        prog=f"python -m pipelines.compare {arguments[0]}",
        args=arguments[1:],
        default=Compare(settings=starting_point(arguments[0])),
    )


def run(order: Compare) -> dict[str, Any]:
    """Makes the comparison; what to say of it at the end."""
    from rich.markdown import Markdown

    from bt_ray.ablations.ablate import Plan
    from bt_ray.comparison.compare import compare
    from bt_ray.comparison.show import to_markdown, write_comparison
    from bt_ray.comparison.study import Entrants
    from bt_ray.methods.build import LEARNERS
    from bt_ray.storage.mirror import copied
    from bt_ray.storage.names import absolute, folder_of, name_of

    settings = order.settings
    entrants = Entrants(
        methods=order.methods or tuple(LEARNERS), rates=order.rates, small_views=order.small_views
    )
    plan = Plan(
        seeds=order.seeds, images=order.images, linear=order.linear, at_once=order.at_once,
        max_hours=order.max_hours,
    )  # fmt: skip
    place = folder_of(absolute(settings.storage)) / "ablations"
    folder = order.out or place
    searched = len(order.rates) if len(order.rates) > 1 else 0
    console.print(
        f"{len(entrants.methods)} methods, {searched} runs to find each one's rate and "
        f"{plan.seeds} more of it, in {name_of(folder)}",
        soft_wrap=True,
    )
    with copied(place):
        outcome = compare(
            settings, entrants, plan, folder, on_progress=tell, prepare_process=quiet_libraries
        )
        files = write_comparison(outcome, folder)
    console.print(Markdown(to_markdown(outcome)))
    return record(outcome, {kind: name_of(file) for kind, file in files.items()})


def record(outcome: "Outcome", paths: dict[str, str]) -> dict[str, Any]:
    """The comparison for programs, in a line."""
    from bt_ray.comparison.tables import SCORES

    return {
        "run_id": None,
        "steps": None,
        "images_per_s": None,
        "scores": {
            f"{row.case.label}: {score}": round(sum(found) / len(found), 5)
            for row in outcome.rows
            for score in SCORES
            if (found := row.scores(score))
        },
        "missing_runs": outcome.num_missing,
        "failed_runs": len(outcome.failures),
        "model_version": None,
        "paths": paths,
    }


if __name__ == "__main__":
    main()
