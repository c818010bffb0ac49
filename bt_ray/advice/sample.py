"""Images from all over a set, each as likely as any other to be among them."""

from collections.abc import Iterator
from itertools import islice

import numpy as np
import pyarrow as pa

from bt_ray.data.preparation.prepare import Described
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.sources import Source, SourceImage

_CHUNK = 256


def fair_sample(described: Described, most: int) -> Iterator[SourceImage]:
    """All images, or `most` of them if there are more, from everywhere in the set.

    Raises: DataError if an image is missing or cannot be read.
    """
    if described.source is not None:
        return _of_source(described.source, most)
    return islice(_of_shards(ShardSet(described.root, described.manifest), most), most)


def _of_source(source: Source, most: int) -> Iterator[SourceImage]:
    """Rows at equal distances; a source's order does not follow its images' names."""
    count = min(len(source), most)
    rows = np.arange(count) * len(source) // count
    for first in range(0, count, _CHUNK):
        yield from source.take(rows[first : first + _CHUNK].tolist()).read()


def _of_shards(shards: ShardSet, most: int) -> Iterator[SourceImage]:
    """Row groups at equal distances; the rows of shards were mixed when they were written."""
    size = shards.manifest.rows_per_row_group
    num_groups = -(-shards.manifest.num_rows // size)
    count = min(num_groups, -(-most // size))
    for group in np.arange(count) * num_groups // count:
        for row in shards.read(np.array([group])).to_pylist():
            yield SourceImage(row["sample_id"], row["image"], row["label"])


def class_sizes(described: Described) -> dict[str, int]:
    """Images of each class, of the whole set; empty if there are no labels."""
    classes = described.manifest.classes
    if not classes:
        return {}
    if described.source is not None:
        labels = described.source.entries["label"]
    elif described.manifest.rows_per_class:
        return dict(zip(classes, described.manifest.rows_per_class, strict=True))
    else:
        labels = ShardSet(described.root, described.manifest).read_columns(["label"])["label"]
    counts = np.bincount(_known(labels), minlength=len(classes))
    return dict(zip(classes, counts.tolist(), strict=True))


def _known(labels: pa.ChunkedArray) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    numbers: np.ndarray[tuple[int], np.dtype[np.int64]] = (
        labels.drop_null().to_numpy().astype(np.int64)
    )
    return numbers
