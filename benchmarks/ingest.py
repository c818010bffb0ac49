"""Speed of delivering views to a training worker: `python -m benchmarks.ingest --json`.

Real ImageNet JPEGs in shards, on all cores of the machine, nothing computed with the views. The
contenders take turns, each block in processes of its own: Ray Data as in a run, the same
operations in bare loops, one a core, and torch's DataLoader with the reference transform.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

import tyro
from rich.table import Table

from benchmarks.deliveries import (
    CORES,
    GLOBAL_BATCH,
    Measured,
    in_bare_loops,
    through_dataloader,
    through_ray,
)
from benchmarks.training import describe_machine, in_fresh_process
from benchmarks.views import read_jpegs
from bt_ray.config import DataSettings, ViewSettings
from bt_ray.data.preparation.prepare import prepare_data
from bt_ray.errors import SettingsError
from bt_ray.presets import preset
from pipelines.terminal import console, finish, guarded


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Images/s, each in two views, delivered in every way."""

    data: Path | None = None
    """Folder of JPEGs; none: imagenet-sample.zip in BT_RAY_TEST_DATA or ../shared/data."""
    epochs: int = 12
    """Passes over the images in a block."""
    repeats: int = 3
    """Blocks of each way."""
    json: bool = False
    """Print one line of JSON on stdout."""

    def __post_init__(self) -> None:
        if min(self.epochs, self.repeats) < 1:
            raise SettingsError("--epochs and --repeats must be at least 1.")


def main() -> None:
    """Parses the command line, lets the ways take turns, prints who was how fast."""
    order = guarded(lambda: tyro.cli(Benchmark, prog="python -m benchmarks.ingest"))
    with tempfile.TemporaryDirectory() as work:
        ways = guarded(lambda: build_ways(order, Path(work)))
        blocks: dict[str, list[Measured]] = {name: [] for name in ways}
        for turn in range(1, order.repeats + 1):
            for name, way in ways.items():
                with console.status(f"round {turn} of {order.repeats}: {name} …"):
                    blocks[name].append(in_fresh_process(way))
                console.print(f"round {turn}: {name}, {blocks[name][-1]['images_per_s']:.1f}/s")
    speeds = {name: median(m["images_per_s"] for m in found) for name, found in blocks.items()}
    ratios = {
        "ratio": speeds["ray"] / speeds["bare"],
        "ratio_full": speeds["ray_full"] / speeds["bare_full"],
        "ratio_dataloader": speeds["ray"] / speeds["dataloader"],
        "ratio_dataloader_full": speeds["ray_full"] / speeds["dataloader"],
    }
    store_mb = {n: max(m["store_mb"] for m in blocks[n]) for n in ("ray", "ray_full")}
    table = Table("", "images/s", title=f"Two views of an image, {CORES} cores")
    for name, speed in speeds.items():
        table.add_row(name, f"{speed:,.1f}")
    console.print(table)
    console.print(", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items()))
    console.print(f"most of the object store in use: {max(store_mb.values()):,.0f} MB")
    if order.json:
        finish(
            {"name": "ingest"}
            | {name: round(ratio, 3) for name, ratio in ratios.items()}
            | {
                "images_per_s": {name: round(speed, 1) for name, speed in speeds.items()},
                "object_store_mb": {name: round(most) for name, most in store_mb.items()},
                "global_batch": GLOBAL_BATCH,
                "epochs": order.epochs,
                "repeats": order.repeats,
            }
            | describe_machine()
        )


def build_ways(order: Benchmark, work: Path) -> dict[str, Callable[[], Measured]]:
    """One block of each way, by name, over the same images."""
    encoded = read_jpegs(order.data)
    (work / "images").mkdir()
    for number, image in enumerate(encoded):
        (work / "images" / f"{number:05d}.jpg").write_bytes(image)
    split = prepare_data(
        replace(
            preset("images"),
            storage=str(work),
            data=DataSettings(train=str(work / "images"), global_batch=GLOBAL_BATCH),
            views=ViewSettings(photometry="device"),
        )
    )
    full = replace(split, views=ViewSettings(photometry="loader"))
    steps = len(encoded) // GLOBAL_BATCH * order.epochs
    return {
        "ray": partial(through_ray, split, steps),
        "bare": partial(in_bare_loops, split, steps),
        "ray_full": partial(through_ray, full, steps),
        "bare_full": partial(in_bare_loops, full, steps),
        "dataloader": partial(through_dataloader, work / "images", order.epochs),
    }


if __name__ == "__main__":
    main()
