"""Some images of a set, really decoded: are they whole, and how fast are their views made?"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pyarrow as pa

from bt_ray.config import Settings
from bt_ray.data.preparation.prepare import Described
from bt_ray.data.shards.shard_file import to_table
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.sources import SourceImage
from bt_ray.data.stream.decode import make_views
from bt_ray.errors import DataError

_MOST_IMAGES, _CHUNK, _ROW_GROUPS = 2048, 16, 8


@dataclass(frozen=True)
class Sample:
    """What decoding a few images showed.

    `unreadable`: the error that each image without sense would end a run with;
    `images_per_s`: pairs of views that one CPU makes; None if no image could be decoded.
    """

    num_images: int
    unreadable: tuple[DataError, ...]
    images_per_s: float | None
    seconds: float


def decode_sample(described: Described, settings: Settings, *, budget_s: float) -> Sample:
    """Decodes images from all over the set, and makes their views, for about `budget_s`."""
    began = time.perf_counter()
    images = islice(spread(described), _MOST_IMAGES)
    num_images, num_made, making_s, unreadable = 0, 0, 0.0, list[DataError]()
    while time.perf_counter() - began < budget_s and (chunk := tuple(islice(images, _CHUNK))):
        num_images += len(chunk)
        rows = []
        for image in chunk:
            try:
                rows.append(to_table((image,), pixels=settings.data.pixels))
            except DataError as error:
                unreadable.append(error)
        if rows:
            table = _as_a_step(pa.concat_tables(rows))
            started = time.perf_counter()
            make_views(table, settings, steps_per_epoch=1)
            making_s += time.perf_counter() - started
            num_made += len(rows)
    return Sample(
        num_images,
        tuple(unreadable),
        num_made / making_s if num_made else None,
        time.perf_counter() - began,
    )


def spread(described: Described) -> Iterator[SourceImage]:
    """Images from all over the set: a source's own order is mixed, of shards some groups are."""
    if described.source is not None:
        for first in range(0, len(described.source), _CHUNK):
            last = min(first + _CHUNK, len(described.source))
            yield from described.source.take(range(first, last)).read()
        return
    shards = ShardSet(described.root, described.manifest)
    num_groups = -(-described.manifest.num_rows // described.manifest.rows_per_row_group)
    for group in np.unique(np.linspace(0, num_groups - 1, _ROW_GROUPS).astype(np.int64)):
        for row in shards.read(np.array([group])).to_pylist():
            yield SourceImage(row["sample_id"], row["image"], row["label"])


def _as_a_step(table: pa.Table) -> pa.Table:
    numbers = pa.array(np.arange(table.num_rows))
    return (
        table.append_column("row", numbers)
        .append_column("slot", numbers)
        .append_column("step", pa.array(np.zeros(table.num_rows, np.int64)))
    )
