"""What a run will be, printed before it starts; nothing is written."""

import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.table import Table

from bt_ray.config import Settings, in_use
from pipelines.terminal import console, exit_code, finish, guarded, show_error, warn

if TYPE_CHECKING:
    from bt_ray.data.preparation.prepare import Described
    from bt_ray.forecast.forecast import Forecast

_MB, _GB, _MOST_ERRORS = 2**20, 2**30, 10


def dry_run(settings: Settings, *, preset_settings: Settings) -> int:
    """Prints settings, forecast and a line of JSON.

    Args:
      preset_settings: what the settings are compared with.
    Returns: the exit code, 0 if nothing stands against the run.
    """
    print_settings(settings, preset_settings)
    with redirect_stdout(sys.stderr), console.status("Looking at data, memory and speed"):
        from bt_ray.forecast.forecast import forecast

        ahead = guarded(lambda: forecast(settings))
    print_forecast(ahead, settings)
    finish(record(ahead))
    return max((exit_code(error) for error in ahead.problems), default=0)


def print_settings(settings: Settings, preset_settings: Settings) -> None:
    """A table of all settings; those that differ from the preset's are marked."""
    theirs = in_use(preset_settings)
    table = Table(title=f"Settings of {settings.name}", show_header=False)
    for key, value in in_use(settings).items():
        changed = value != theirs.get(key)
        note = f"instead of {theirs.get(key)}" if changed else ""
        table.add_row("*" if changed else "", key, str(value), note)
    console.print(table)


def print_forecast(ahead: "Forecast", settings: Settings) -> None:
    """Tables of facts, then warnings and errors."""
    table = Table(title="What it will be", show_header=False)
    for name, part in (("training images", ahead.train), ("held-out images", ahead.test)):
        table.add_row(name, "none" if part is None else _data_words(part))
    if ahead.sample is not None:
        table.add_row(
            "sample",
            f"{ahead.sample.num_images:,} training images decoded, "
            f"{len(ahead.sample.unreadable)} of them unreadable",
        )
    if ahead.plan is not None:
        table.add_row("steps per epoch", f"{ahead.plan.steps_per_epoch:,}")
        table.add_row("steps", f"{ahead.total_steps:,}")
        table.add_row("shuffle window", f"{ahead.plan.window_row_groups:,} row groups")
    table.add_row("precision", ahead.precision or "what all nodes of the cluster have")
    table.add_row("encoder", f"{ahead.size.encoder_parameters:,} parameters")
    table.add_row("projector", f"{ahead.size.projector_parameters:,} parameters")
    if settings.scaling.is_elastic:
        fewest = settings.scaling.min_workers
        table.add_row(
            "workers", f"{settings.scaling.workers}; memory and time are those of {fewest}"
        )
    memory = ahead.size.memory
    for kind, size in (asdict(memory) | {"total": memory.total}).items():
        table.add_row(f"memory: {kind}", f"{size / _MB:,.1f} MB a worker")
    table.add_row("time", _time_words(ahead, settings))
    console.print(table)
    for warning in ahead.warnings:
        warn(warning)
    for error in ahead.problems[:_MOST_ERRORS]:
        show_error(error)
    if len(ahead.problems) > _MOST_ERRORS:
        console.print(f"… and {len(ahead.problems) - _MOST_ERRORS} more.")


def _data_words(part: "Described") -> str:
    manifest = part.manifest
    labels = f"{len(manifest.classes)} classes" if manifest.classes else "no labels"
    size = f"{manifest.num_bytes / _MB:,.1f} MB"
    shards = "shards exist" if part.source is None else f"shards of about {size} will be written"
    return f"{manifest.num_rows:,} images, {labels}, {size}; {shards}"


def _time_words(ahead: "Forecast", settings: Settings) -> str:
    sample, speed = ahead.sample, ahead.speed
    if ahead.device is None:
        return "cannot be told: the hardware that the settings ask for is not this machine's"
    if speed is None:
        return "cannot be told: too much for this machine (memory, or fp16 or the projector here)"
    if sample is None or sample.images_per_s is None or ahead.hours is None:
        return "cannot be told without images"
    return (
        f"{ahead.hours:,.2f} hours at best, at {ahead.images_per_s:,.1f} images/s, without probes. "
        f"Rough: measured on this machine in {sample.seconds + speed.seconds:.1f} s, "
        f"{speed.images_per_s:,.1f} images/s computing ({ahead.device.type}, batches of "
        f"{speed.timed_rows}), {sample.images_per_s:,.1f} images/s decoding on each CPU"
    )


def record(ahead: "Forecast") -> dict[str, Any]:
    """The forecast for programs."""
    facts = {
        name: None
        if part is None
        else {
            "images": part.manifest.num_rows,
            "classes": len(part.manifest.classes),
            "bytes": part.manifest.num_bytes,
            "shards_exist": part.source is None,
        }
        for name, part in (("train", ahead.train), ("test", ahead.test))
    }
    return {
        "run_id": None,
        "steps": ahead.total_steps,
        "images_per_s": ahead.images_per_s and round(ahead.images_per_s, 3),
        "scores": {},
        "model_version": None,
        "paths": {"run": str(ahead.run_folder)},
        "data": facts,
        "steps_per_epoch": ahead.plan and ahead.plan.steps_per_epoch,
        "window_row_groups": ahead.plan and ahead.plan.window_row_groups,
        "precision": ahead.precision,
        "encoder_parameters": ahead.size.encoder_parameters,
        "projector_parameters": ahead.size.projector_parameters,
        "memory_bytes": asdict(ahead.size.memory) | {"total": ahead.size.memory.total},
        "hours": ahead.hours,
        "problems": [str(error) for error in ahead.problems],
        "warnings": list(ahead.warnings),
    }
