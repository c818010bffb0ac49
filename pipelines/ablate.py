"""The paper's ablations: `python -m pipelines.ablate figure5 PRESET [--seeds K] …`."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from bt_ray.config import Method, Settings, check_pretraining
from bt_ray.cpu.count import available_cpus
from bt_ray.presets import PRESETS, starting_point
from pipelines.terminal import (
    command,
    console,
    finish,
    guarded,
    interrupted_by_sigterm,
    quiet_libraries,
)

if TYPE_CHECKING:
    from bt_ray.ablations.progress import StudyProgress

_STUDIES = ("table5", "table6", "table7", "figure2", "figure3", "figure4", "figure5")


@dataclass(frozen=True, kw_only=True)
class Ablate:
    """Trains every row of a table, or every point of a figure, over several seeds.

    Each is scored by kNN and a linear classifier on the test images. A result is written as soon
    as it is known, and the same command goes on with those that are missing.
    """

    seeds: int = 2
    """Runs of each case; the first one has --training.seed, the others the next ones."""
    images: int | None = None
    """Training images that are used, drawn class by class; none: all."""
    linear: Literal["fast", "small", "paper"] = "fast"
    """How the linear classifier is fitted (`pipelines.evaluate linear`)."""
    at_once: int = field(default_factory=available_cpus)
    """Runs at a time with --scaling.workers 0, each on its share of the cores; with workers, runs
    have the cluster one after the other."""
    values: tuple[float, ...] = ()
    """Batch sizes (figure2), dimensions (figure4) or λ (figure5); none: what fits the preset."""
    depths: tuple[int, ...] = ()
    """Layers of the projector (figure4); none: 1 2 3."""
    rates: tuple[float, ...] = ()
    """Base learning rates of weights, searched for each batch size (figure2); none: the preset's,
    1.5, 2.5 and 4 times as much."""
    methods: tuple[Method, ...] = ()
    """Methods that have a line each (figure2, figure3); none: Barlow Twins alone."""
    results: Path | None = None
    """Folder of the results; none: `ablations` in the storage."""
    settings: Annotated[Settings, tyro.conf.arg(name="")]


@command
def main() -> None:
    """Parses the command line, makes the ablation, prints its table."""
    name, order = guarded(lambda: parse(sys.argv[1:]))
    with interrupted_by_sigterm():
        finish(guarded(lambda: run(name, order)))


def parse(arguments: list[str]) -> tuple[str, Ablate]:
    """The study's name and the order, given by a name, a preset or a settings file, and flags."""
    if len(arguments) < 2 or arguments[0].startswith("-") or arguments[1].startswith("-"):
        console.print(
            f"usage: python -m pipelines.ablate {{{','.join(_STUDIES)}}} "
            f"{{{','.join(PRESETS)},SETTINGS.json}} [--seeds K] [--section.field value …]",
        )
        sys.exit(0 if arguments[:1] in (["--help"], ["-h"]) else 2)
    order = tyro.cli(
        Ablate,
        prog=f"python -m pipelines.ablate {arguments[0]} {arguments[1]}",
        args=arguments[2:],
        default=Ablate(settings=starting_point(arguments[1])),
    )
    return arguments[0], order


def run(name: str, order: Ablate) -> dict[str, Any]:
    """Makes the ablation; what to say of it at the end."""
    from rich.markdown import Markdown

    from bt_ray.ablations.ablate import Plan, ablate
    from bt_ray.ablations.paper import build_study
    from bt_ray.ablations.show import to_markdown, write_study
    from bt_ray.ablations.study import Axes
    from bt_ray.storage.mirror import copied
    from bt_ray.storage.names import absolute, folder_of, name_of

    settings = order.settings
    check_pretraining(settings)
    axes = Axes(values=order.values, depths=order.depths, rates=order.rates, methods=order.methods)
    study = build_study(name, settings, axes)
    plan = Plan(seeds=order.seeds, images=order.images, linear=order.linear, at_once=order.at_once)
    place = folder_of(absolute(settings.storage)) / "ablations"
    folder = order.results or place
    told = name_of(folder)
    console.print(f"{study.title}: {len(study.cases)} cases, {plan.seeds} seeds, in {told}")
    with copied(place):
        rows = ablate(
            study, settings, plan, folder, on_progress=tell, prepare_process=quiet_libraries
        )
        files = write_study(study, settings, plan, rows, folder)
    console.print(Markdown(to_markdown(study, settings, plan, rows)))
    return {
        "run_id": None,
        "steps": None,
        "images_per_s": None,
        "scores": {
            f"{row.case.label}: {score}": round(sum(found) / len(found), 5)
            for row in rows
            for score in ("knn_top1", "linear_top1", "rankme")
            if (found := row.scores(score))
        },
        "model_version": None,
        "paths": {kind: name_of(file) for kind, file in files.items()},
    }


def tell(progress: "StudyProgress") -> None:
    """Prints a line of a run that has come to its result."""
    result, left = progress.result, progress.seconds_left
    words = ", ".join(
        f"{word} {result.scores[name]:.1%}"
        for name, word in (("knn_top1", "kNN"), ("linear_top1", "linear"))
        if name in result.scores
    )
    time = f"{result.seconds / 60:.1f} min" if progress.is_new else "was there"
    ahead = "" if left is None else f"; about {left / 60:.0f} min left"
    console.print(
        f"{progress.done}/{progress.total}  {progress.label}, seed {result.seed}: "
        f"{result.failure or words} ({time}){ahead}",
        soft_wrap=True, highlight=False,
    )  # fmt: skip


if __name__ == "__main__":
    main()
