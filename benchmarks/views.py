"""Speed of making two views of a JPEG on one core: `python -m benchmarks.views --json`.

Real ImageNet JPEGs, from the bytes to uint8 views of 224 pixels. The ways take turns on the same
images; that the fast ones make the reference's views is asserted in the same run.
"""

import os
import time
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import torch
import tyro
from numpy.typing import NDArray
from rich.table import Table

from benchmarks.training import describe_machine
from bt_ray.config import Settings, ViewSettings
from bt_ray.data.shards.shard_file import to_table
from bt_ray.data.sources import SourceImage
from bt_ray.data.stream.batches import to_batch
from bt_ray.data.stream.decode import make_views
from bt_ray.errors import DataError, SettingsError
from bt_ray.presets import preset
from pipelines.terminal import console, finish, guarded

_ARCHIVE = "imagenet-sample.zip"
_CHUNK = 50
_MOST_MEAN, _MOST_PERCENTILE = 1.0, 8.0
"""Levels by which a view may differ from the reference's: on average, and at its 99.9th
percentile."""
_V100_IMAGES_PER_S, _V100S = 90, 32

Views = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Images/s, each in two views, of every way to make them."""

    data: Path | None = None
    """Folder of JPEGs; none: imagenet-sample.zip in BT_RAY_TEST_DATA or ../shared/data."""
    images: int = 300
    """Images of a turn."""
    repeats: int = 5
    """Turns of each way."""
    json: bool = False
    """Print one line of JSON on stdout."""

    def __post_init__(self) -> None:
        if min(self.images, self.repeats) < 1:
            raise SettingsError("--images and --repeats must be at least 1.")


def main() -> None:
    """Parses the command line, lets the ways take turns, prints who was how fast."""
    order = guarded(lambda: tyro.cli(Benchmark, prog="python -m benchmarks.views"))
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    chunks = guarded(lambda: load(order))
    ways = {
        "reference": views_settings(backend="reference", photometry="loader"),
        "fast": views_settings(backend="fast", photometry="loader"),
        "split": views_settings(backend="fast", photometry="device"),
    }
    worst = guarded(lambda: check_parity(chunks, ways))
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(order.repeats):
        for name, settings in ways.items():
            with console.status(f"turn {turn + 1} of {order.repeats}: {name} …"):
                began = time.perf_counter()
                for chunk in chunks:
                    make_views(chunk, settings, steps_per_epoch=1)
                seconds[name].append(time.perf_counter() - began)
    num_images = sum(len(chunk) for chunk in chunks)
    speeds = {name: num_images / median(times) for name, times in seconds.items()}
    cores = {name: _V100S * _V100_IMAGES_PER_S / speed for name, speed in speeds.items()}
    table = Table("", "images/s", "ratio", f"cores for {_V100S} V100s", title="Two views, one core")
    for name, speed in speeds.items():
        ratio = speed / speeds["reference"]
        table.add_row(name, f"{speed:,.0f}", f"{ratio:.2f}", f"{cores[name]:.1f}")
    console.print(table)
    if order.json:
        finish(
            {
                "name": "views",
                "ratio": round(speeds["fast"] / speeds["reference"], 3),
                "ratio_split": round(speeds["split"] / speeds["reference"], 3),
                "images_per_s": {name: round(speed, 1) for name, speed in speeds.items()},
                "cores_for_32_v100": {name: round(count, 1) for name, count in cores.items()},
                "worst_difference": worst,
                "images": num_images,
                "repeats": order.repeats,
            }
            | describe_machine()
        )


def views_settings(**views: object) -> Settings:
    """The paper's views, made in one way."""
    return replace(preset("images"), views=ViewSettings(**views))  # type: ignore[arg-type]


def load(order: Benchmark) -> list[pa.Table]:
    """The images as rows of steps, a chunk a step."""
    encoded = read_jpegs(order.data)[: order.images]
    chunks = []
    for first in range(0, len(encoded), _CHUNK):
        part = encoded[first : first + _CHUNK]
        table = to_table(tuple(SourceImage(str(i), e, None) for i, e in enumerate(part)))
        rows = pa.array(np.arange(first, first + len(part)))
        step = pa.array(np.zeros(len(part), np.int64))
        chunks.append(
            table.append_column("row", rows).append_column("slot", rows).append_column("step", step)
        )
    return chunks


def read_jpegs(folder: Path | None) -> list[bytes]:
    """The JPEGs below a folder, or those that the tests use.

    Raises: DataError if there is none.
    """
    encoded = _from_folder(folder) if folder else _from_archive()
    if not encoded:
        raise DataError(f"There is no JPEG in {folder}.")
    return encoded


def _from_folder(folder: Path) -> list[bytes]:
    names = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))
    return [name.read_bytes() for name in names]


def _from_archive() -> list[bytes]:
    shared = Path(__file__).parents[2] / "shared" / "data"
    file = Path(os.environ.get("BT_RAY_TEST_DATA", shared)) / _ARCHIVE
    if not file.is_file():
        raise DataError(f"There is no {_ARCHIVE} in {file.parent}; give --data FOLDER of JPEGs.")
    with zipfile.ZipFile(file) as archive:
        names = sorted(n for n in archive.namelist() if n.lower().endswith((".jpg", ".jpeg")))
        return [archive.read(name) for name in names]


def check_parity(chunks: list[pa.Table], ways: dict[str, Settings]) -> dict[str, list[float]]:
    """Each fast way's worst mean and worst 99.9th percentile of difference over all views.

    Raises: DataError if a view differs from the reference's by more than is allowed.
    """
    worst = {name: [0.0, 0.0] for name in ways if name != "reference"}
    for number, chunk in enumerate(chunks):
        with console.status(f"parity: {number + 1} of {len(chunks)} chunks …"):
            expected = finished(chunk, ways["reference"])
            for name, bounds in worst.items():
                off = np.abs(finished(chunk, ways[name]) - expected).reshape(len(expected), -1)
                bounds[0] = max(bounds[0], float(off.mean(1).max()))
                bounds[1] = max(bounds[1], float(np.percentile(off, 99.9, axis=1).max()))
    for name, (mean, percentile) in worst.items():
        if mean > _MOST_MEAN or percentile > _MOST_PERCENTILE:
            raise DataError(
                f"The way {name!r} differs from the reference by {mean:.2f} levels on average and "
                f"{percentile:.0f} at the 99.9th percentile of a view; {_MOST_MEAN:.0f} and "
                f"{_MOST_PERCENTILE:.0f} are allowed."
            )
    return {name: [round(bound, 3) for bound in bounds] for name, bounds in worst.items()}


def finished(chunk: pa.Table, settings: Settings) -> Views:
    """Both views of each image after photometry, (2n, 3, px, px) levels."""
    columns = make_views(chunk, settings, steps_per_epoch=1)
    batch = to_batch(columns, settings, 1, torch.device("cpu"))
    return np.concatenate([view.numpy().astype(np.float32) for view in batch.views])


if __name__ == "__main__":
    main()
