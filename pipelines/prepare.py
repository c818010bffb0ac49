"""Writes shards: `python -m pipelines.prepare SOURCE DEST`."""

import time
from dataclasses import dataclass
from typing import Annotated

import tyro

from bt_ray.data.shards import write_shards
from bt_ray.data.sources import open_source
from pipelines.terminal import console, finish, guarded


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """Writes the images of a source as Parquet shards with a manifest."""

    source: Annotated[str, tyro.conf.Positional]
    """`digits`, `digits:test`, or a folder of images."""
    destination: Annotated[str, tyro.conf.Positional]
    """A new folder, by path or by any URI that pyarrow opens."""
    rows_per_row_group: int = 256
    """Images of one Parquet row group."""


def main() -> None:
    """Parses the command line, writes the shards, says what is in them."""
    order = tyro.cli(Prepare, prog="python -m pipelines.prepare")

    def write() -> dict[str, object]:
        began = time.perf_counter()
        source = open_source(order.source)
        with console.status(f"Writing {source.num_images:,} images") as status:
            shards = write_shards(
                source,
                order.destination,
                rows_per_row_group=order.rows_per_row_group,
                on_progress=lambda done: status.update(f"{done:,} of {source.num_images:,} images"),
            )
        manifest = shards.manifest
        console.print(
            f"{manifest.num_rows:,} images, {len(manifest.classes)} classes, "
            f"{manifest.num_bytes / 2**20:,.1f} MB in {len(manifest.shards)} shards"
        )
        return {
            "run_id": None,
            "steps": None,
            "images_per_s": round(manifest.num_rows / (time.perf_counter() - began), 1),
            "scores": {},
            "model_version": None,
            "paths": {"shards": order.destination},
            "images": manifest.num_rows,
            "classes": len(manifest.classes),
            "digest": manifest.digest,
        }

    finish(guarded(write))


if __name__ == "__main__":
    main()
