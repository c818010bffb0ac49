"""Pretrains an encoder: `python -m pipelines.pretrain PRESET [--section.field value …]`."""

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from shlex import quote
from typing import Annotated, Any, Literal

import tyro
from rich.table import Table
from rich.text import Text

from bt_ray.config import Settings
from bt_ray.errors import SettingsError
from bt_ray.json_files import read_json
from bt_ray.presets import PRESETS, starting_point
from bt_ray.redaction import redact
from bt_ray.storage.names import absolute, below, is_far
from bt_ray.storage.working_copy import read_far_json
from pipelines.preset_table import preset_table
from pipelines.progress import ProgressLine
from pipelines.terminal import command, console, finish, guarded, warn


@dataclass(frozen=True, kw_only=True)
class Pretrain:
    """What to pretrain."""

    dry_run: bool = False
    """Only check the settings and say what the run will be: data, memory, time."""
    register: Literal["last", "best"] = "last"
    """Which checkpoint's encoder becomes a version in the model registry; best needs
    --training.keep-best."""
    on: str | None = None
    """With --dry-run: hardware that need not be here, such as '32 V100, 100GbE', '4x8 V100, 100
    RoCE', '8 H100' or 'N NAME (fp16 300 TFLOP/s, 2 TB/s, 48 GB), 4x100 IB'; the run's time, memory
    and needs are predicted for it."""
    settings: Annotated[Settings, tyro.conf.arg(name="")]

    def __post_init__(self) -> None:
        if self.on is not None and not self.dry_run:
            raise SettingsError(f"--on {self.on!r} plans a run that does not start: add --dry-run.")


@command
def main() -> None:
    """Parses the command line, pretrains, prints what came of it."""
    order = guarded(lambda: parse(sys.argv[1:]))
    settings = order.settings
    if order.on is not None:
        from pipelines.plan_table import plan_run

        theirs = starting_point(sys.argv[1])
        sys.exit(plan_run(settings, preset_settings=theirs, on=order.on))
    if order.dry_run:
        from pipelines.dry_run import dry_run

        sys.exit(dry_run(settings, preset_settings=starting_point(sys.argv[1])))
    what = Text.assemble(
        "Pretraining ", (settings.name, "bold"), f" on {redact(settings.data.train)}"
    )
    console.print(what, soft_wrap=True)
    finished_before = guarded(lambda: finished_steps(settings))
    warn_of_faults(settings)
    from bt_ray.training.launch import pretrain

    with ProgressLine(settings) as progress:
        summary = guarded(
            lambda: pretrain(
                settings,
                which=order.register,
                trackers=[progress],
                on_preparation=progress.show_preparation,
            )
        )
    if finished_before == summary.steps:
        console.print("This run was finished: nothing was trained again. --name starts another.")
    print_summary(asdict(summary))
    finish(asdict(summary))


def parse(arguments: list[str]) -> Pretrain:
    """The order given by a preset or a settings file, and the flags that follow."""
    if arguments == ["--list"]:
        console.print(preset_table())
        sys.exit(0)
    if not arguments or arguments[0].startswith("-"):
        console.print(
            f"usage: python -m pipelines.pretrain {{{','.join(PRESETS)}}} [--dry-run] "
            "[--section.field value …]\n"
            "       python -m pipelines.pretrain PRESET --dry-run --on '32 V100, 100GbE'\n"
            "       python -m pipelines.pretrain FOLDER/settings.json [--section.field value …]\n"
            "       python -m pipelines.pretrain --list\n"
            "       python -m pipelines.pretrain PRESET --help"
        )
        sys.exit(0 if arguments[:1] in (["--help"], ["-h"]) else 2)
    chosen = starting_point(arguments[0])
    make = PRESETS.get(arguments[0])
    return tyro.cli(
        Pretrain,
        prog=f"python -m pipelines.pretrain {arguments[0]}",
        description=None if make is None else make.__doc__,
        args=arguments[1:],
        default=Pretrain(settings=chosen),
    )


def warn_of_faults(settings: Settings) -> None:
    """Says what the doctor sees at a glance; ends the program if nodes have other versions."""
    from bt_ray.doctor.start import check_start

    for fault in guarded(lambda: check_start(settings)):
        warn(fault)


_SNIPPET = """
    import mlflow, pandas, pathlib

    mlflow.set_tracking_uri({uri!r})
    encoder = mlflow.pyfunc.load_model({model!r})
    image = pathlib.Path("cat.jpg").read_bytes()
    representations = encoder.predict(pandas.DataFrame({{"image": [image]}}))
"""


def finished_steps(settings: Settings) -> int | None:
    """The steps after which a run of this name was finished; none if it was not."""
    if is_far(settings.storage):
        summary = read_far_json(below(settings.storage, settings.name), "summary.json") or {}
    else:
        file = Path(absolute(settings.storage)) / settings.name / "summary.json"
        summary = read_json(file) or {}
    steps = summary.get("steps")
    return steps if summary.get("is_finished", steps == summary.get("total_steps")) else None


def print_summary(summary: dict[str, Any]) -> None:
    """A table for people."""
    scores = summary["scores"]
    table = Table(title="What came of it", show_header=False)
    is_whole = summary["steps"] == summary["total_steps"]
    steps = f"{summary['steps']:,}"
    table.add_row("steps", steps if is_whole else f"{steps} of {summary['total_steps']:,}")
    table.add_row("precision", summary["precision"])
    if scores["loss"] is not None:
        table.add_row("loss", f"{scores['loss']:.2f}")
    if scores["knn_top1"] is not None:
        table.add_row("kNN, untrained", f"{scores['knn_top1_untrained']:.1%}")
        table.add_row("kNN, trained", f"{scores['knn_top1']:.1%}")
        if "knn_top1_average" in scores:
            table.add_row("kNN, averaged weights", f"{scores['knn_top1_average']:.1%}")
        if summary["neighbors"] is not None:
            table.add_row("k of kNN", str(summary["neighbors"]))
    if scores["rankme"] is not None:
        table.add_row("RankMe", f"{scores['rankme_untrained']:.1f} → {scores['rankme']:.1f}")
    for name in ("alignment", "uniformity"):
        if scores[name] is not None:
            table.add_row(name, f"{scores[name]:.2f}")
    if summary["best"] is not None:
        best = summary["best"]
        table.add_row("best score", f"{best['score']:.4g}, after {best['step']:,} steps")
    if summary["images_per_s"] is not None:
        table.add_row("images/s", f"{summary['images_per_s']:,.0f}")
    table.add_row("run folder", summary["paths"]["run"])
    if "best" in summary["paths"]:
        table.add_row("best checkpoint", summary["paths"]["best"])
    uri = summary["paths"]["mlflow"]
    is_server = uri.startswith("http")
    table.add_row(
        "MLflow page", uri if is_server else f"mlflow ui --backend-store-uri {quote(uri)}"
    )
    if summary["model_version"] is not None:
        table.add_row("registered", f"models:/{summary['model_version']}")
    console.print(table)
    for warning in summary["warnings"]:
        warn(warning)
    if summary["model_version"] is not None:
        model = f"models:/{summary['model_version']}"
        console.print("Use the encoder:")
        console.print(_SNIPPET.format(uri=uri, model=model), highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
