"""What a sweep costs beside its training: `python -m benchmarks.sweep --json`.

The same trials are run as a sweep, and as bare loops of the same steps in processes of their own,
as many at a time. The loops have their decoded images in memory and do nothing but train.
"""

import multiprocessing
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import tyro
from rich.table import Table

from benchmarks.peers import bare_images_per_s, gather_images
from benchmarks.training import describe_machine, in_fresh_process
from bt_ray.config import Settings, override
from bt_ray.errors import SettingsError
from bt_ray.presets import preset
from bt_ray.tracking.tracker import read_history
from pipelines.terminal import console, finish, guarded

_IMAGES, _HELD_OUT = 10_240, 0.1
_CALIBRATION_STEPS = 6
_AT_ONCE = 2


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A sweep's trials an hour, against bare loops of the same steps."""

    data: Path | None = None
    """CIFAR-10 as JPEGs, a folder a class; none: as in benchmarks.training."""
    trials: int = 8
    """Trials of the sweep, and bare loops."""
    trial_seconds: float = 120.0
    """About how long a bare loop takes, two at a time."""
    workers: int = 1
    """Ray Train workers of a trial; 0: it trains in its own process."""
    json: bool = False
    """Print one line of JSON on stdout."""

    def __post_init__(self) -> None:
        if self.trials < 1 or self.trial_seconds <= 0 or self.workers < 0:
            raise SettingsError("trials and trial_seconds must be above 0, workers 0 or above.")


def main() -> None:
    """Parses the command line, runs both, prints the ratio and where a trial's time goes."""
    order = guarded(lambda: tyro.cli(Benchmark, prog="python -m benchmarks.sweep"))
    with tempfile.TemporaryDirectory() as work:
        record = guarded(lambda: measure(order, Path(work)))
    print_parts(record)
    if order.json:
        finish({"name": "sweep"} | record | describe_machine())


def measure(order: Benchmark, work: Path) -> dict[str, Any]:
    """Both ways' seconds, and the parts of a trial's."""
    folder = gather_images(order.data, work, num_images=_IMAGES)
    settings = override(
        preset("cifar10"),
        {
            "name": "benchmark",
            "storage": str(work / "runs"),
            "data.train": str(folder),
            "data.test": None,
            "probe.bank_images": 2048,
            "scaling.workers": order.workers,
            "scaling.threads_per_worker": 1,
        },
    )
    steps_per_epoch = int(_IMAGES * (1 - _HELD_OUT)) // settings.data.global_batch
    calibrate = partial(_bare, folder, settings, _CALIBRATION_STEPS)
    with console.status("timing bare steps"):
        rate = mean(_side_by_side(calibrate, _AT_ONCE)[1])
    steps = order.trial_seconds * rate / settings.data.global_batch
    epochs = max(1, round(steps / steps_per_epoch))
    settings = override(
        settings, {"schedule.epochs": epochs, "training.probe_every_epochs": epochs}
    )
    total_steps = epochs * steps_per_epoch
    console.print(f"{order.trials} trials of {epochs} epochs, {total_steps} steps")
    with console.status("bare loops"):
        bare_s, _ = _side_by_side(partial(_bare, folder, settings, total_steps), order.trials)
    console.print(f"bare loops: {bare_s:.1f} s")
    with console.status("sweep"):
        sweep_s, parts = in_fresh_process(partial(_sweep, settings, order))
    console.print(f"sweep: {sweep_s:.1f} s")
    return {
        "ratio": round(bare_s / sweep_s, 3),
        "bare_s": round(bare_s, 1),
        "sweep_s": round(sweep_s, 1),
        "trials": order.trials,
        "workers": order.workers,
        "steps": total_steps,
        "parts_s": {name: round(seconds, 2) for name, seconds in parts.items()},
    }


def _bare(folder: Path, settings: Settings, steps: int, _: int) -> float:
    """Images/s of one bare loop."""
    torch.set_num_threads(1)
    return bare_images_per_s(folder, settings, 0, steps)


def _side_by_side(job: partial[float], count: int) -> tuple[float, list[float]]:
    """Seconds of `count` jobs, two at a time, each in a new process; what they return."""
    began = time.perf_counter()
    with ProcessPoolExecutor(
        _AT_ONCE, mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=1
    ) as pool:
        found = list(pool.map(job, range(count)))
    return time.perf_counter() - began, found


def _sweep(settings: Settings, order: Benchmark) -> tuple[float, dict[str, float]]:
    """Seconds of a whole search, from its command to its last trial; mean seconds of its parts."""
    for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "RAY_JOB_ID"):
        os.environ.pop(name, None)
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (the bare loops' priority)
    import ray

    from bt_ray.tuning.order import SweepOrder
    from bt_ray.tuning.space import load_space
    from bt_ray.tuning.sweep import sweep, sweep_folder

    space = load_space("redundancy_weight")
    began = time.time()
    try:
        sweep(
            space,
            settings,
            SweepOrder(trials=order.trials, pruning="none", seeds=1, at_once=_AT_ONCE),
        )
    finally:
        ray.shutdown()
    folder = sweep_folder(space, settings)
    ends = [file.stat().st_mtime for file in (folder / "trials").glob("*.json")]
    parts = [_parts(run) for run in sorted((folder / "runs").iterdir()) if run.is_dir()]
    first = min((run / "settings.json").stat().st_mtime for run in (folder / "runs").iterdir())
    means = {name: mean(part[name] for part in parts) for name in parts[0]}
    return max(ends) - began, {"sweep_start": first - began} | means


def _parts(run: Path) -> dict[str, float]:
    """Seconds of a trial's parts, by the times at which its files were written."""
    at = {
        name: (run / file).stat().st_mtime
        for name, file in {
            "claimed": "settings.json",
            "mlflow": "mlflow_run.json",
            "probed": "probes/step-000000000.npz",
            "ended": "summary.json",
        }.items()
    }
    history = read_history(run / "metrics.jsonl")
    last = max(history["time/step_s"])
    checkpoint = max(f.stat().st_mtime for f in run.glob("*/checkpoint_*/manifest.json"))
    steps = list(history["time/step_s"])
    before = [0, *steps[:-1]]
    stepping = sum(
        (step - start) * history["time/step_s"][step]
        for step, start in zip(steps, before, strict=True)
    )
    return {
        "mlflow_run": at["mlflow"] - at["claimed"],
        "workers_and_first_probe": at["probed"] - at["mlflow"],
        "steps": stepping,
        "waiting_first_batch_probes_checkpoints": checkpoint - at["probed"] - stepping,
        "figures_and_end": at["ended"] - checkpoint,
        "steps_done": float(last),
    }


def print_parts(record: dict[str, Any]) -> None:
    """A table for people."""
    table = Table("part of a trial", "s, mean", title=f"ratio {record['ratio']:.3f}")
    for name, seconds in record["parts_s"].items():
        table.add_row(name, f"{seconds:.1f}")
    console.print(table)


if __name__ == "__main__":
    main()
