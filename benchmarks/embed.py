"""Speed of turning images into vectors: `python -m benchmarks.embed --json`.

A ResNet-18 at 224 pixels on real ImageNet JPEGs. Ray Data's actors and bare loops over the same
encoder, decoder and view take turns, each block in processes of its own: one process a core, one
thread each. Counted from when all are at work; their vectors are compared.
"""

import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from PIL import Image
from rich.table import Table

from benchmarks.training import describe_machine, in_fresh_process
from benchmarks.views import read_jpegs
from bt_ray.config import Settings, override
from bt_ray.cpu.count import available_cpus
from bt_ray.data.sources import open_source
from bt_ray.data.views.fast import decode
from bt_ray.data.views.reference import central
from bt_ray.embedding.embed import EmbeddingJob, embed
from bt_ray.embedding.encoder import Computation
from bt_ray.embedding.neighbors import EmbeddingSet
from bt_ray.embedding.pool import build_pool
from bt_ray.errors import DataError, SettingsError
from bt_ray.model.encoder import build_encoder
from bt_ray.model.inputs import normalize
from bt_ray.model.pretrained import Pretrained
from bt_ray.presets import preset
from pipelines.terminal import console, finish, guarded

CORES = available_cpus()
_ROWS_PER_FILE, _BATCH_SIZE = 32, 32
_TOLERANCE = 1e-4  # of vectors whose numbers are about 1
Block = tuple[float, dict[str, NDArray[np.float32]]]
"""Images/s, and vectors by the images' names."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Images/s that become vectors, by Ray Data's actors and in bare loops."""

    data: Path | None = None
    """Folder of JPEGs; none: imagenet-sample.zip in BT_RAY_TEST_DATA or ../shared/data."""
    repeats: int = 3
    """Blocks of each way."""
    json: bool = False
    """Print one line of JSON on stdout."""

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise SettingsError(f"--repeats {self.repeats} must be at least 1.")


def main() -> None:
    """Parses the command line, lets the ways take turns, prints who was how fast."""
    order = guarded(lambda: tyro.cli(Benchmark, prog="python -m benchmarks.embed"))
    with tempfile.TemporaryDirectory() as work:
        speeds = guarded(lambda: measure(order, Path(work)))
    middle = {name: median(found) for name, found in speeds.items()}
    ratio = middle["ray"] / middle["bare"]
    table = Table("", "images/s", title=f"ResNet-18, 224 px, {CORES} cores")
    for name, speed in middle.items():
        table.add_row(name, f"{speed:,.1f}")
    console.print(table)
    console.print(f"ratio {ratio:.2f}")
    if order.json:
        finish(
            {
                "name": "embed",
                "ratio": round(ratio, 3),
                "images_per_s": {name: round(speed, 1) for name, speed in middle.items()},
                "blocks": {name: [round(s, 1) for s in found] for name, found in speeds.items()},
                "repeats": order.repeats,
            }
            | describe_machine()
        )


def measure(order: Benchmark, work: Path) -> dict[str, list[float]]:
    """Images/s of every block, by the way's name.

    Raises: DataError if the ways disagree about a vector.
    """
    images = work / "images"
    images.mkdir()
    for number, encoded in enumerate(read_jpegs(order.data)):
        (images / f"{number:05d}.jpg").write_bytes(encoded)
    speeds: dict[str, list[float]] = {"ray": [], "bare": []}
    for turn in range(1, order.repeats + 1):
        vectors = {}
        for name, way in {"ray": by_actors, "bare": in_bare_loops}.items():
            with console.status(f"round {turn} of {order.repeats}: {name} …"):
                speed, vectors[name] = in_fresh_process(
                    partial(way, images, work / f"vectors-{turn}")
                )
            speeds[name].append(speed)
            console.print(f"round {turn}: {name}, {speed:.1f}/s")
        _compare(vectors)
    return speeds


def _compare(vectors: dict[str, dict[str, NDArray[np.float32]]]) -> None:
    ours, theirs = vectors["ray"], vectors["bare"]
    if ours.keys() != theirs.keys():
        raise DataError("The two ways embedded different images.")
    worst = max(float(np.abs(ours[name] - theirs[name]).max()) for name in ours)
    if worst > _TOLERANCE:
        raise DataError(f"The vectors of the two ways differ by {worst:.1e}.")


def _settings() -> Settings:
    changes = {"model.encoder": "resnet18", "model.stem": "imagenet", "views.image_px": 224}
    return override(preset("images"), changes)


def _pretrained() -> Pretrained:
    """The same weights wherever it is called."""
    torch.manual_seed(0)
    settings = _settings()
    return Pretrained(build_encoder(settings).eval(), settings)


def by_actors(images: Path, out: Path) -> Block:
    """As `python -m pipelines.embed` does it, between the third file and the last but two."""
    pool = build_pool(CORES, "cpu", Computation(batch_size=_BATCH_SIZE))
    job = EmbeddingJob(
        open_source(str(images)), str(out), _pretrained(), "resnet18", None, pool.computation,
        _ROWS_PER_FILE,
    )  # fmt: skip
    ends: list[tuple[int, float]] = []
    embed(job, pool.run_all, lambda _, done, total: ends.append((done, time.perf_counter())))
    (first, began), (last, ended) = ends[3], ends[-3]
    embedded = EmbeddingSet.open(str(out))
    names = [name.as_py() for t in embedded.tables(["sample_id"]) for name in t["sample_id"]]
    rows = torch.cat(list(embedded.vectors())).numpy()
    return (last - first) / (ended - began), dict(zip(names, rows, strict=True))


def in_bare_loops(images: Path, out: Path) -> Block:
    """The same without Ray: a process a core, each with its share of the files; writes nothing."""
    files = sorted(images.iterdir())
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(CORES, mp_context=context) as pool:
        list(pool.map(time.sleep, [1] * CORES))  # they are up
        shares = list(pool.map(_bare_loop, [files[rank::CORES] for rank in range(CORES)]))
    vectors: dict[str, NDArray[np.float32]] = {}
    for _, found in shares:
        vectors |= found
    return sum(speed for speed, _ in shares), vectors


@torch.inference_mode()
def _bare_loop(files: list[Path]) -> Block:
    """Images/s of one process after its first batch, and its vectors."""
    torch.set_num_threads(1)
    encoder = _pretrained().encoder.to(memory_format=torch.channels_last)
    image_px = _settings().views.image_px
    vectors: dict[str, NDArray[np.float32]] = {}
    began = 0.0
    for first in range(0, len(files), _BATCH_SIZE):
        batch = files[first : first + _BATCH_SIZE]
        views = [
            np.asarray(central(Image.fromarray(decode(file.read_bytes())), image_px))
            for file in batch
        ]
        levels = torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2)
        found = encoder(normalize(levels, _settings().data)).numpy()
        vectors |= zip((file.name for file in batch), found, strict=True)
        began = began or time.perf_counter()
    speed = (len(files) - _BATCH_SIZE) / (time.perf_counter() - began)
    return speed, vectors


if __name__ == "__main__":
    main()
