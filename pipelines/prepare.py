"""Writes shards: `python -m pipelines.prepare SOURCE DEST`."""

import time
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from bt_ray.data.preparation.job import Treatment
from bt_ray.data.preparation.runner import open_runner
from bt_ray.data.preparation.write import write_shards
from bt_ray.data.sources import open_source
from bt_ray.errors import SettingsError
from pipelines.count_line import CountLine
from pipelines.terminal import command, console, finish, guarded


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """Writes the images of a source as Parquet shards with a manifest.

    The same command continues what was cut short. Places are paths, or any URIs that pyarrow
    opens (file://, s3://, gs://).
    """

    source: Annotated[str, tyro.conf.Positional]
    """A folder of images; a .tar, or many (`DIR/{000..012}.tar`, or their folder); .parquet files
    likewise; `torchvision:CLASS:ROOT[:SPLIT]`; `digits`, `digits:test`, `cifar10`,
    `cifar10:test`."""
    destination: Annotated[str, tyro.conf.Positional]
    """A new folder, or one that the same command began."""
    labels: str | None = None
    """Text file for images without labels of their own: `NAME LABEL` lines, or one label a line
    in the order of the images' names. none: the images are taken without labels, as from folders
    that are dates."""
    rows_per_row_group: int = 256
    """Images of one Parquet row group."""
    treatment: Annotated[Treatment, tyro.conf.arg(name=""), tyro.conf.OmitArgPrefixes] = field(
        default_factory=Treatment
    )
    cpus: int | None = None
    """CPUs used at once, of the Ray cluster that is joined or else started here; 0: this process
    alone, without Ray; none: all CPUs, or this process alone for less than 256 MB."""


@command
def main() -> None:
    """Parses the command line, writes the shards, says what is in them."""
    order = guarded(lambda: tyro.cli(Prepare, prog="python -m pipelines.prepare"))
    finish(guarded(lambda: prepare(order)))


def prepare(order: Prepare) -> dict[str, object]:
    """Writes the shards; what to say of them at the end."""
    began = time.perf_counter()
    if order.cpus is not None and order.cpus < 0:
        raise SettingsError(f"cpus={order.cpus} must be at least 0.")
    source = open_source(order.source, order.labels)
    console.print(f"{len(source):,} images of {len(source.classes):,} classes in {source.name}")
    if source.found is not None and not source.found.is_remarkable:  # else the log has said it
        console.print(source.found.sentence)
    with CountLine() as line, open_runner(source, cpus=order.cpus) as run_all:
        shards = write_shards(
            source,
            order.destination,
            rows_per_row_group=order.rows_per_row_group,
            treatment=order.treatment,
            run_all=run_all,
            on_progress=line.show,
        )
    manifest = shards.manifest
    console.print(
        f"{manifest.num_rows:,} images, {len(manifest.classes)} classes, "
        f"{manifest.num_bytes / 2**20:,.1f} MB in {len(manifest.shards)} shards"
    )
    if manifest.num_rejected:
        console.print(f"{manifest.num_rejected:,} images were left out: rejected.jsonl")
    return {
        "run_id": None,
        "steps": None,
        "images_per_s": round(manifest.num_rows / (time.perf_counter() - began), 1),
        "scores": {},
        "model_version": None,
        "paths": {"shards": order.destination},
        "images": manifest.num_rows,
        "classes": len(manifest.classes),
        "rejected": manifest.num_rejected,
        "digest": manifest.digest,
    }


if __name__ == "__main__":
    main()
