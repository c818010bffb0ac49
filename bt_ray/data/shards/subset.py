"""Chooses some images of a set of shards: drawn class by class, or named in a list."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bt_ray.data.shards.shard_set import ShardSet, take_rows
from bt_ray.data.sources import Source
from bt_ray.data.sources.source import identify
from bt_ray.errors import DataError

_GROUPS_AT_ONCE = 8


def draw_balanced(
    labels: NDArray[np.int64], num_classes: int, *, share: float, seed: int
) -> NDArray[np.int64]:
    """Ascending rows of about `share` of all images, equally many of each class.

    A class has at least one image in it, and all of its images if it has too few. With the same
    seed, a smaller share is part of a larger one.

    Args:
      labels: (n,), 0 to `num_classes` − 1.
      share: above 0, at most 1.
    """
    each = max(1, round(share * len(labels) / num_classes))
    order = np.random.default_rng(seed).permutation(len(labels))
    chosen = [order[labels[order] == label][:each] for label in range(num_classes)]
    return np.sort(np.concatenate(chosen))


def read_names(file: Path) -> list[str]:
    """The file names in a text file with one name a line, such as SimCLR's `1percent.txt`.

    Raises: DataError if it cannot be read, or is empty.
    """
    try:
        names = [line.strip() for line in file.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"The list {file} cannot be read ({error}).") from error
    if not names:
        raise DataError(f"The list {file} is empty; give a file name a line.")
    return names


def find_rows(shards: ShardSet, names: Sequence[str]) -> NDArray[np.int64]:
    """Ascending rows of the images with these names; folders in front of a name may be left out.

    Raises: DataError if no image has a name, or if several have it.
    """
    ids = shards.read_columns(["sample_id"])["sample_id"].to_pylist()
    row_of = {name: row for row, name in enumerate(ids)}
    last_parts = [PurePosixPath(name).name for name in ids]
    count_of = Counter(last_parts)
    row_of_last = dict(zip(last_parts, range(len(ids)), strict=True))
    rows = []
    for name in names:
        if name in row_of:
            rows.append(row_of[name])
        elif count_of[name] == 1:
            rows.append(row_of_last[name])
        elif count_of[name]:
            raise DataError(
                f"{count_of[name]} images are called {name!r}; name them with their folders, such "
                f"as {next(i for i in ids if PurePosixPath(i).name == name)!r}."
            )
        else:
            raise DataError(
                f"The list names {name!r}, and no training image is called so; they are called "
                f"like {ids[0]!r}."
            )
    return np.unique(np.array(rows, np.int64))


@dataclass(frozen=True)
class _Rows:
    """Reads images from shards; the index has `row`. Each row group is read once if rows ascend."""

    shards: ShardSet

    def read(self, entries: pa.Table) -> Iterator[bytes]:
        rows = entries["row"].to_numpy()
        groups = rows // self.shards.manifest.rows_per_row_group
        held = np.unique(groups)
        for first in range(0, len(held), _GROUPS_AT_ONCE):
            part = held[first : first + _GROUPS_AT_ONCE]
            table = self.shards.read(part)
            yield from take_rows(table, rows[np.isin(groups, part)])["image"].to_pylist()


def subset(shards: ShardSet, rows: NDArray[np.int64], name: str) -> Source:
    """A source of some images of the shards; it has all classes of the shards.

    Args:
      rows: ascending.
      name: the source's name in messages and in the manifest.
    """
    manifest = shards.manifest
    told = shards.read_columns(["sample_id", "label"]).take(pa.array(rows))
    entries = told.append_column("origin", told["sample_id"]).append_column("row", pa.array(rows))
    facts = (manifest.digest, *map(str, rows.tolist()))
    return Source(
        identity=identify("subset", facts),
        classes=manifest.classes,
        entries=entries,
        reader=_Rows(shards),
        num_bytes=manifest.num_bytes * len(rows) // manifest.num_rows,
        name=name,
    )
