"""Speed of the whole job, JPEGs to optimizer steps: `python -m benchmarks.training --json`.

It needs lightly too (the extra `bench`). Each block of steps runs in a process of
its own, alone on the machine, and the contenders take turns, so that a slow minute hits them
alike.
"""

import multiprocessing
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import torch
import tyro
from rich.table import Table

from benchmarks.peers import bare_images_per_s, gather_images, lightly_images_per_s
from bt_ray.config import Settings, override
from bt_ray.cpu.count import available_cpus
from bt_ray.errors import SettingsError
from bt_ray.presets import preset
from bt_ray.tracking.tracker import read_history
from pipelines.terminal import console, finish, guarded

T = TypeVar("T")

_WARMUP_STEPS, _SMALL_WARMUP_STEPS = 1, 4
_GLOBAL_BATCH = 256
_CPU_FACTS = Path("/proc/cpuinfo")


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Images/s of the whole job, and of plain loops that train the same models."""

    data: Path | None = None
    """CIFAR-10 as JPEGs, a folder a class; none: `train` in cifar10-imagefolder.zip, looked for
    in BT_RAY_TEST_DATA or ../shared/data."""
    steps: int = 24
    """Timed steps of a block with ResNet-18."""
    small_steps: int = 128
    """Timed steps of a block with the small encoder."""
    repeats: int = 3
    """Blocks of each contender."""
    json: bool = False
    """Print one line of JSON on stdout."""

    def __post_init__(self) -> None:
        for name in ("steps", "small_steps", "repeats"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name}={getattr(self, name)} must be at least 1.")


def main() -> None:
    """Parses the command line, lets the contenders take turns, prints who was how fast."""
    order = guarded(lambda: tyro.cli(Benchmark, prog="python -m benchmarks.training"))
    with tempfile.TemporaryDirectory() as work:
        blocks = guarded(lambda: measure(order, Path(work)))
    speeds = {name: median(of_blocks) for name, of_blocks in blocks.items()}
    ratios = {
        "ratio": speeds["bt_ray"] / speeds["lightly"],
        "ratio_tuned_peer": speeds["bt_ray"] / speeds["lightly_tuned"],
        "ratio_bare": speeds["bt_ray_small"] / speeds["bare_small"],
    }
    print_table(blocks, ratios)
    if order.json:
        record = {name: round(ratio, 3) for name, ratio in ratios.items()} | {
            "images_per_s": {name: round(speed, 1) for name, speed in speeds.items()},
            "blocks": {name: [round(v, 1) for v in values] for name, values in blocks.items()},
            "repeats": order.repeats,
            "steps": order.steps,
            "small_steps": order.small_steps,
        }
        finish({"name": "training"} | record | {"lightly": version("lightly")} | describe_machine())


def measure(order: Benchmark, work: Path) -> dict[str, list[float]]:
    """Images/s of every block, by contender."""
    contenders = build_contenders(order, work)
    blocks: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(1, order.repeats + 1):
        for name, block in contenders.items():
            with console.status(f"round {turn} of {order.repeats}: {name} …"):
                blocks[name].append(in_fresh_process(block))
            console.print(f"round {turn}: {name}, {blocks[name][-1]:.1f} images/s")
    return blocks


def in_fresh_process(block: Callable[[], T]) -> T:
    """What `block` returns; none of its threads, memory or Ray processes outlives the call."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_for_people, block).result()


def _for_people(block: Callable[[], T]) -> T:
    """What `block` returns; what it prints is no part of the line of JSON."""
    with redirect_stdout(sys.stderr):
        return block()


def build_contenders(order: Benchmark, work: Path) -> dict[str, Callable[[], float]]:
    """One block of each contender, by name, in the order of their turns."""
    # A run ends with its images: the job gets as many as its steps take, lightly's loader
    # some more, so that it is as busy at the last timed step as before.
    steps, small_steps = _WARMUP_STEPS + order.steps, _SMALL_WARMUP_STEPS + order.small_steps
    loader_steps = steps + 2 * (available_cpus())
    folders = {
        n: gather_images(order.data, work, num_images=n * _GLOBAL_BATCH)
        for n in {steps, small_steps, loader_steps}
    }
    small = override(
        preset("cifar10"),
        {
            "storage": str(work / "runs"),
            "data.train": str(folders[small_steps]),
            "data.test": None,
            "schedule.epochs": 1,
            "training.log_every_steps": _SMALL_WARMUP_STEPS,
            "probe.bank_images": _GLOBAL_BATCH,
            "scaling.max_failures": 0,
        },
    )
    large = override(
        small,
        {
            "data.train": str(folders[steps]),
            "views.crop_area": (0.08, 1.0),
            "model.encoder": "resnet18",
            "model.stem": "cifar",
            "model.projector_widths": (2048, 2048, 2048),
            "training.log_every_steps": _WARMUP_STEPS,
            "scaling.workers": 2,
            "scaling.cpus_per_worker": 0.5,
        },
    )
    lightly = partial(
        lightly_images_per_s, folders[loader_steps], _GLOBAL_BATCH, _WARMUP_STEPS, order.steps
    )
    return {
        "lightly": partial(lightly, tuned=False),
        "lightly_tuned": partial(lightly, tuned=True),
        "bt_ray": partial(job_images_per_s, large),
        "bt_ray_small": partial(job_images_per_s, small),
        "bare_small": partial(
            bare_images_per_s, folders[small_steps], small, _SMALL_WARMUP_STEPS, order.small_steps
        ),
    }


def job_images_per_s(settings: Settings) -> float:
    """Images/s of a run on a Ray cluster of this machine, from its second reading on.

    The first reading also holds the start: the probe, the first batch, the first kernels. It is
    short, since Ray Data decodes ahead and what it does meanwhile is not paid for later.
    """
    for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "RAY_JOB_ID"):
        os.environ.pop(name, None)
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (the others' priority)
    import ray

    from bt_ray.training.launch import pretrain

    settings = replace(settings, name=f"{settings.model.encoder}-{time.time_ns()}")
    try:
        summary = pretrain(settings, register=False)
    finally:
        ray.shutdown()
    step_s = read_history(Path(summary.paths["metrics"]))["time/step_s"]
    elapsed_s = sum((step - before) * step_s[step] for before, step in pairwise(step_s))
    return settings.data.global_batch * (max(step_s) - min(step_s)) / elapsed_s


def describe_machine() -> dict[str, Any]:
    """What the speeds depend on."""
    facts = _CPU_FACTS.read_text() if _CPU_FACTS.is_file() else ""
    model = re.search(r"model name\s*: (.*)", facts)
    return {
        "torch": torch.__version__,
        "cpu": model[1] if model else platform.processor(),
        "cores": available_cpus(),
        "has_bf16": bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()),
        "bf16_instructions": sorted(set(re.findall(r"\b(?:avx512|amx)_bf16\b", facts))),
    }


def print_table(blocks: dict[str, list[float]], ratios: dict[str, float]) -> None:
    """A table for people."""
    table = Table("", "images/s", "lowest", "highest", title="Training speed")
    for name, speeds in blocks.items():
        table.add_row(name, *(f"{v:,.1f}" for v in (median(speeds), min(speeds), max(speeds))))
    console.print(table)
    console.print(", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items()))


if __name__ == "__main__":
    main()
