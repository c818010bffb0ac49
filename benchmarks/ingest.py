"""Speed of delivering views to a training worker: `python -m benchmarks.ingest --json`.

Real ImageNet JPEGs in shards, on all cores of the machine, nothing computed with the views. The
contenders take turns, each block in processes of its own: Ray Data as in a run, the same
operations in bare loops, one a core, and torch's DataLoader with the reference transform.

`--consumers W` measures something else: how many images a second W training workers of one machine
are handed, small ones (CIFAR-10 at 16 px), so that handing over weighs more than decoding.

`--lose node` measures a run on two nodes that loses one for 25 seconds; `worker`, `store` and
`disk` are other troubles (`benchmarks/trouble.py`).
"""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

import tyro
from rich.table import Table

from benchmarks.consumers import through_consumers
from benchmarks.deliveries import (
    CORES,
    GLOBAL_BATCH,
    Measured,
    in_bare_loops,
    through_dataloader,
    through_ray,
)
from benchmarks.peers import gather_images
from benchmarks.training import describe_machine, in_fresh_process
from benchmarks.trouble import Loss, rate_after
from benchmarks.views import read_jpegs
from bt_ray.config import DataSettings, Settings, ViewSettings, override
from bt_ray.data.preparation.prepare import prepare_data
from bt_ray.errors import SettingsError
from bt_ray.presets import preset
from pipelines.terminal import console, finish, guarded

_SMALL_IMAGES, _FED_IMAGES, _BARE_IMAGES = 12_500, 400_000, 100_000


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Images/s, each in two views, delivered in every way."""

    data: Path | None = None
    """Folder of JPEGs; none: imagenet-sample.zip in BT_RAY_TEST_DATA or ../shared/data."""
    epochs: int = 12
    """Passes over the images in a block."""
    repeats: int = 3
    """Blocks of each way."""
    consumers: int | None = None
    """Feed this many workers with small images; none: one worker, with large ones."""
    batch: int = 2048
    """Images of a step, over all `consumers`."""
    no_decode: bool = False
    """Hand the `consumers` all but the views."""
    lose: Loss | None = None
    """Measure a run that loses this for a while, once."""
    json: bool = False
    """Print one line of JSON on stdout."""

    def __post_init__(self) -> None:
        if min(self.epochs, self.repeats) < 1:
            raise SettingsError("--epochs and --repeats must be at least 1.")
        if self.consumers is not None and (self.consumers < 1 or self.batch % self.consumers):
            raise SettingsError(
                f"--batch {self.batch} must be divisible by --consumers {self.consumers}, which is "
                "at least 1."
            )


def main() -> None:
    """Parses the command line, lets the ways take turns, prints who was how fast."""
    order = guarded(lambda: tyro.cli(Benchmark, prog="python -m benchmarks.ingest"))
    if order.lose is not None:
        get_over(order, order.lose)
        return
    if order.consumers is not None:
        feed_many(order, order.consumers)
        return
    with tempfile.TemporaryDirectory() as work:
        blocks = take_turns(order, guarded(lambda: build_ways(order, Path(work))))
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


def take_turns(
    order: Benchmark, ways: Mapping[str, Callable[[], Measured]]
) -> dict[str, list[Measured]]:
    """What each way measured in each of its blocks."""
    blocks: dict[str, list[Measured]] = {name: [] for name in ways}
    for turn in range(1, order.repeats + 1):
        for name, way in ways.items():
            with console.status(f"round {turn} of {order.repeats}: {name} …"):
                blocks[name].append(in_fresh_process(way))
            console.print(f"round {turn}: {name}, {blocks[name][-1]['images_per_s']:.1f}/s")
    return blocks


def get_over(order: Benchmark, loss: Loss) -> None:
    """Has a run lose that; prints how fast it was before and after."""
    with tempfile.TemporaryDirectory() as work, console.status(f"without its {loss} …"):
        found = guarded(lambda: rate_after(loss, Path(work)))
    record = {name: round(value, 3) for name, value in found.items()}
    table = Table("", "", title=f"A run that loses its {loss} for a while, images/s")
    for name, value in record.items():
        table.add_row(name, f"{value:,.2f}")
    console.print(table)
    if order.json:
        finish({"name": "ingest", "lose": loss} | record | describe_machine())


def feed_many(order: Benchmark, consumers: int) -> None:
    """Feeds that many workers, beside bare loops if they decode; prints how fast."""
    with tempfile.TemporaryDirectory() as work:
        folder = gather_images(order.data, Path(work), num_images=_SMALL_IMAGES)
        settings = guarded(lambda: prepare_data(_small(order, consumers, folder, work)))
        steps = _FED_IMAGES // order.batch
        ways: dict[str, Callable[[], Measured]] = {
            "ray": partial(through_consumers, settings, steps, decode=not order.no_decode)
        }
        if not order.no_decode:
            ways["bare"] = partial(in_bare_loops, settings, _BARE_IMAGES // order.batch)
        blocks = take_turns(order, ways)
    record = {
        name: round(median(block[name] for block in blocks["ray"]), 3)
        for name in ("images_per_s", "first_s", "coordinator_cores")
    }
    if not order.no_decode:
        bare = median(block["images_per_s"] for block in blocks["bare"])
        record["bare_images_per_s"] = round(bare, 1)
        record["ratio_consumers"] = round(record["images_per_s"] / bare, 3)
    table = Table("", "", title=f"{consumers} consumers, {order.batch} images a step")
    for name, value in record.items():
        table.add_row(name, f"{value:,.2f}")
    console.print(table)
    if order.json:
        finish(
            {"name": "ingest", "consumers": consumers, "global_batch": order.batch}
            | {"decode": not order.no_decode, "repeats": order.repeats}
            | record
            | describe_machine()
        )


def _small(order: Benchmark, consumers: int, folder: Path, work: str) -> Settings:
    return override(
        preset("images"),
        {
            "storage": work,
            "data.train": str(folder),
            "data.global_batch": order.batch,
            "views.image_px": 16,
            "views.photometry": "device",
            "scaling.workers": consumers,
        },
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
