"""One GPU: our step against the paper's method written plainly. `python -m benchmarks.gpu --json`.

It needs no Ray. Four contenders take turns, each built anew for its turn: *a*, the plain step on
noise that lies on the GPU; *a2*, the same from image files by torch's DataLoader; *b*, our loop's
step on noise; *c*, the same from shards by our input path. `--tiny` runs on a CPU, to see that it
runs; its figures mean nothing. `--curve` trains on CIFAR-10 instead (`benchmarks.gpu_curve`).
"""

import gc
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import tyro
from rich.table import Table

from benchmarks.gpu_marks import Marks
from benchmarks.gpu_plain import PlainRun, Views, loaded_views, noise_views
from bt_ray.config import Settings, override
from bt_ray.data.preparation.write import write_shards
from bt_ray.data.shards.shard_set import ShardSet, is_shards
from bt_ray.data.sources import open_source
from bt_ray.data.stream.batches import Batch, local_batches
from bt_ray.errors import DataError, LaunchError, SettingsError
from bt_ray.forecast.rates import GPUS
from bt_ray.forecast.trace import trace_model
from bt_ray.methods.barlow_twins import BarlowTwinsLearner
from bt_ray.methods.learner import WholeStep
from bt_ray.optim.build import set_rates
from bt_ray.presets import preset
from bt_ray.training.loop import begin
from bt_ray.training.watch import FiniteWatch
from pipelines.terminal import console, finish, guarded

CONTENDERS = {
    "a": "plain, data on the device",
    "a2": "plain, DataLoader from files",
    "b": "ours, data on the device",
    "c": "ours, from shards",
}
PARTS = ("input", "forward", "loss", "backward", "optimizer")
GOALS = {
    "b / a": 1.3,
    "c / a2": 2.5,
    "(loss + optimizer) / step of b": 0.05,
}
"""At least, at least, at most."""
_WARMUP_STEPS, _STEPS_PER_EPOCH, _ENDLESS = 3, 1000, 10**6
_TINY = {
    "model.encoder": "resnet18",
    "model.projector_widths": (64, 64, 64),
    "views.image_px": 32,
    "training.precision": "fp32",
}


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Pairs/s of a step, ours and the plain one, on the first GPU."""

    json: bool = False
    """Print one line of JSON on stdout."""
    images: Path | None = None
    """Image files, or shards of such, for a2 (files alone) and c; for --curve a folder with train/
    and test/, a folder a class in each; none: a and b, which need none."""
    only: str = ""
    """Contenders to run, such as a,b; none: all that have images."""
    seconds: float = 10.0
    """Of each turn, after its first steps."""
    rounds: int = 3
    """Turns of each contender."""
    batch: int = 64
    """Images of a step; 64 are a worker's of the paper's run."""
    precision: str = "fp16"
    """fp16, bf16 or fp32."""
    out: Path | None = None
    """Folder for shards and for the curve's run; none: a temporary one for shards."""
    tiny: bool = False
    """On the CPU: ResNet-18, small D, 32 pixels, 8 images."""
    curve: bool = False
    """Train ResNet-18 on CIFAR-10 for 200 epochs, kNN every ten: a reference curve."""
    minutes: float = 9.0
    """After which --curve saves a checkpoint and ends; the same command goes on."""

    def __post_init__(self) -> None:
        for name in ("seconds", "rounds", "batch", "minutes"):
            if getattr(self, name) <= 0:
                raise SettingsError(f"{name}={getattr(self, name)} must be above 0.")
        unknown = set(self.names) - set(CONTENDERS)
        if unknown:
            raise SettingsError(
                f"only={self.only!r} must name some of {', '.join(CONTENDERS)}, with commas."
            )
        if self.curve and (self.images is None or self.out is None):
            raise SettingsError("--curve needs --images and --out, where its run is kept.")

    @property
    def names(self) -> list[str]:
        """Contenders that are asked for; none: all."""
        return [name.strip() for name in self.only.split(",") if name.strip()]


@dataclass(frozen=True, kw_only=True)
class Turn:
    """A contender's turn: its speed, and a step's seconds by part."""

    pairs_per_s: float
    parts: dict[str, float]


@dataclass(frozen=True)
class Contender:
    """One that is ready for its turn; `close` ends what feeds it."""

    step: Callable[[Marks], None]
    close: Callable[[], None] = lambda: None


def main() -> None:
    """Parses the command line, lets the contenders take turns, prints who was how fast."""
    order = guarded(lambda: tyro.cli(Benchmark, prog="python -m benchmarks.gpu"))
    if order.curve:
        from benchmarks.gpu_curve import run_curve

        record = guarded(lambda: run_curve(order.images, order.out, order.minutes, order.tiny))
    else:
        record = guarded(lambda: compare(order))
    if order.json:
        finish({"name": "gpu"} | record)


def compare(order: Benchmark) -> dict[str, Any]:
    """What the contenders' turns came to; also printed.

    Raises: LaunchError without a GPU; DataError for images that do not suffice.
    """
    device = choose_device(order.tiny)
    settings = build_settings(order)
    torch.backends.cudnn.benchmark = True
    with tempfile.TemporaryDirectory() as work:
        contenders = build_contenders(order, settings, device, order.out or Path(work))
        turns: dict[str, list[Turn]] = {name: [] for name in contenders}
        for number in range(1, order.rounds + 1):
            for name, build in contenders.items():
                with console.status(f"round {number} of {order.rounds}: {CONTENDERS[name]} …"):
                    turns[name].append(take_turn(build, settings, device, order.seconds))
                speed = turns[name][-1].pairs_per_s
                console.print(f"round {number}: {CONTENDERS[name]}, {speed:,.1f} pairs/s")
    record = summarize(turns, settings, device)
    print_tables(record)
    return record


def choose_device(tiny: bool) -> torch.device:
    """The first GPU, or the CPU for a tiny run.

    Raises: LaunchError if there is no GPU.
    """
    if tiny:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise LaunchError("There is no GPU with CUDA here; --tiny runs on the CPU.")
    return torch.device("cuda", 0)


def build_settings(order: Benchmark) -> Settings:
    """The paper's model for one worker."""
    changes: dict[str, Any] = {
        "scaling.workers": 0,
        "data.global_batch": order.batch,
        "data.rows_per_row_group": order.batch,
        "training.precision": order.precision,
    }
    if order.tiny:
        changes |= _TINY | {"data.global_batch": 8, "data.rows_per_row_group": 8}
    return override(preset("imagenet_300"), changes)


def build_contenders(
    order: Benchmark, settings: Settings, device: torch.device, work: Path
) -> dict[str, Callable[[], Contender]]:
    """How each contender that can run is built.

    Raises: DataError if one that was asked for lacks its images.
    """
    shards = None if order.images is None else open_shards(order.images, settings, work)
    files = None if order.images is None or is_shards(str(order.images)) else order.images

    def plain(views: Callable[[], Iterator[Views]]) -> Callable[[], Contender]:
        return lambda: Contender(PlainRun(settings, device, views()).step)

    def from_shards(shards: ShardSet) -> Contender:
        batches: Any = local_batches(settings, shards, start=0, stop=_ENDLESS, device=device)
        return Contender(build_step(settings, device, iter(batches)), batches.close)

    able: dict[str, Callable[[], Contender]] = {
        "a": plain(lambda: noise_views(settings, device)),
        "b": lambda: Contender(build_step(settings, device, noise_batches(settings, device))),
    }
    if files is not None:
        able["a2"] = plain(lambda: loaded_views(files, settings))
    if shards is not None:
        able["c"] = lambda: from_shards(shards)
    lacking = [name for name in order.names if name not in able]
    if lacking:
        raise DataError(
            f"Contender {', '.join(lacking)} needs --images: files for a2, files or shards for c."
        )
    return {name: able[name] for name in CONTENDERS if name in (order.names or able)}


def open_shards(images: Path, settings: Settings, work: Path) -> ShardSet:
    """The images as shards, written below `work` if they are files."""
    if is_shards(str(images)):
        return ShardSet.open(str(images))
    root = work / f"shards-{settings.data.rows_per_row_group}"
    if is_shards(str(root)):
        return ShardSet.open(str(root))
    with console.status("Writing shards"):
        rows = settings.data.rows_per_row_group
        return write_shards(open_source(str(images)), str(root), rows_per_row_group=rows)


def build_step(
    settings: Settings, device: torch.device, batches: Iterator[Batch]
) -> Callable[[Marks], None]:
    """The step of `training.loop.train`, with marks."""
    learner = BarlowTwinsLearner(settings, device, steps_per_epoch=_STEPS_PER_EPOCH)
    state = begin(learner, settings, device)
    whole_step = WholeStep(learner)
    watch = FiniteWatch(device, learner.rate_setting)
    now: list[Marks] = []
    learner.module.projector.register_forward_hook(lambda *_: now[-1].mark("forward"))

    def step(marks: Marks) -> None:
        now[:] = [marks]
        batch = next(batches)
        marks.mark("input")
        set_rates(state.optimizer, learner.rate_factor(state.step))
        outcome = whole_step(batch)
        watch.look(state.step, outcome.loss, *outcome.outputs)
        marks.mark("loss")
        marks.mark_gradient("loss", *outcome.outputs)
        state.scaler.scale(outcome.loss).backward()
        marks.mark("backward")
        state.step_optimizer()
        marks.mark("optimizer")
        state.step += 1

    return step


def noise_batches(settings: Settings, device: torch.device) -> Iterator[Batch]:
    """The same batch of two views of random levels, on the device, without end."""
    px, n = settings.views.image_px, settings.data.global_batch
    levels = torch.randint(0, 256, (2, n, 3, px, px), dtype=torch.uint8, device=device)
    return repeat(Batch(step=0, views=(levels[0], levels[1]), samples=np.arange(n)))


def take_turn(
    build: Callable[[], Contender],
    settings: Settings,
    device: torch.device,
    seconds: float,
) -> Turn:
    """A turn of a contender, built for it and gone after it."""
    contender = build()
    try:
        ignored = Marks(device)
        for _ in range(_WARMUP_STEPS):
            ignored.begin()
            contender.step(ignored)
        marks, num_steps = Marks(device), 0
        _wait(device)
        began = time.perf_counter()
        while num_steps == 0 or time.perf_counter() - began < seconds:
            marks.begin()
            contender.step(marks)
            num_steps += 1
        _wait(device)
        elapsed_s = time.perf_counter() - began
    finally:
        contender.close()
    parts = marks.seconds()
    del contender
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return Turn(
        pairs_per_s=num_steps * settings.data.global_batch / elapsed_s,
        parts={part: parts[part] for part in PARTS},
    )


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def summarize(
    turns: dict[str, list[Turn]], settings: Settings, device: torch.device
) -> dict[str, Any]:
    """Medians of the turns, and how they stand to the goals."""
    speeds = {name: median(t.pairs_per_s for t in of_one) for name, of_one in turns.items()}
    parts = {
        name: {part: median(t.parts[part] for t in of_one) for part in PARTS}
        for name, of_one in turns.items()
    }
    batch = settings.data.global_batch
    flops = sum(op.flops for op in trace_model(settings, batch))
    peak = device_peak(device, settings.training.precision)
    mfu = {
        name: None if peak is None else flops * speed / batch / peak
        for name, speed in speeds.items()
    }
    reached = {
        goal: speeds[over] / speeds[under]
        for goal in GOALS
        if (pair := goal.split(" / "))[0] in speeds and pair[1] in speeds
        for over, under in [pair]
    }
    if "b" in parts:
        whole = sum(parts["b"].values())
        share = (parts["b"]["loss"] + parts["b"]["optimizer"]) / whole
        reached["(loss + optimizer) / step of b"] = share
    return {
        "device": device_name(device),
        "torch": torch.__version__,
        "batch": batch,
        "precision": settings.training.precision,
        "dimensions": settings.model.projector_widths[-1],
        "flops": flops,
        "pairs_per_s": speeds,
        "rounds": {name: [t.pairs_per_s for t in of_one] for name, of_one in turns.items()},
        "parts_s": parts,
        "mfu": mfu,
        "reached": reached,
        "goals": GOALS,
    }


def device_name(device: torch.device) -> str:
    """As the driver calls the GPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def device_peak(device: torch.device, precision: str) -> float | None:
    """The datasheet's operations a second; None for a device that the table does not know."""
    name = device_name(device)
    known = next((gpu for gpu in GPUS.values() if gpu.name in name), None)
    if known is None:
        return None
    return known.convolution_flops if precision == "fp32" else known.half_flops


def print_tables(record: dict[str, Any]) -> None:
    """Tables for people."""
    table = Table(
        title=f"{record['device']}, {record['batch']} images, {record['precision']}, "
        f"D = {record['dimensions']}"
    )
    for column in ("", "pairs/s", "MFU", *(f"{part}, ms" for part in PARTS)):
        table.add_column(column, justify="left" if column == "" else "right")
    for name, speed in record["pairs_per_s"].items():
        mfu = record["mfu"][name]
        parts: dict[str, float] = record["parts_s"][name]
        whole = sum(parts.values())
        spent = (f"{parts[part] * 1000:,.1f} ({parts[part] / whole:.0%})" for part in PARTS)
        table.add_row(
            f"{name}: {CONTENDERS[name]}", f"{speed:,.1f}", "–" if mfu is None else f"{mfu:.1%}",
            *spent,
        )  # fmt: skip
    console.print(table)
    for goal, value in record["reached"].items():
        bound = "at most" if GOALS[goal] < 1 else "at least"
        console.print(f"{goal}: {value:.3f} (goal: {bound} {GOALS[goal]})", highlight=False)


if __name__ == "__main__":
    main()
