"""Shards: a folder of Parquet files of encoded images, and a manifest that describes them.

Rows are numbered through all shards; every row group but the very last has the same number
of rows, so that a row's number tells its row group. The manifest is written last: a folder
without one is not a data set.
"""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs
from numpy.typing import NDArray

from bt_ray.data.location import MANIFEST, locate, public_name
from bt_ray.data.shards.manifest import SAMPLES, SCHEMA_VERSION, Manifest
from bt_ray.data.shards.row_groups import read_row_groups
from bt_ray.errors import DataError

_READ_AT_ONCE = 16
"""Requests under way for one window."""
_OF_A_MANIFEST = {"schema_version", "identity", "shards", "num_rows"}
_REQUEST_BYTES = 4 * 2**20
"""Row groups of one shard are asked for together up to this size."""


def _with_large_images(table: pa.Table) -> pa.Table:
    """The table with 64-bit offsets for its images, whose bytes are not copied."""
    place = table.schema.get_field_index("image")
    return table.set_column(place, "image", table["image"].cast(pa.large_binary()))


@dataclass(frozen=True)
class ShardSet:
    """A folder of shards, opened for reading.

    `root` is any path or URI that pyarrow opens; workers on other machines need to reach it.
    """

    root: str
    manifest: Manifest

    @classmethod
    def open(cls, root: str) -> "ShardSet":
        """The shards in `root`.

        Raises: DataError if there is no manifest, one of something else or of a newer schema, or
          one that was cut short.
        """
        shown = public_name(root)
        try:
            tree = _read_manifest(root)
        except FileNotFoundError as error:
            raise DataError(f"{shown!r} holds no {MANIFEST}; write shards with "
                            "`python -m pipelines.prepare SOURCE DEST`.") from error  # fmt: skip
        if isinstance(tree, dict) and _is_newer(tree.get("schema_version")):
            raise DataError(
                f"The shards in {shown!r} have schema {tree['schema_version']}; this bt_ray "
                f"reads up to {SCHEMA_VERSION}. Use a newer bt_ray."
            )
        try:
            return cls(root, Manifest.from_tree(tree))
        except DataError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"The {MANIFEST} in {shown!r} describes no shards: it is empty, was cut short, or "
                "is of something else. Restore it, or prepare the data again."
            ) from error

    @cached_property
    def _first_rows(self) -> NDArray[np.int64]:
        return np.cumsum([0] + [shard.num_rows for shard in self.manifest.shards])

    def read(self, row_groups: NDArray[np.int64]) -> pa.Table:
        """The rows of these row groups, ascending, with their numbers in a column `row`.

        Each row group is read once, and many at a time: storage takes longer to answer than to
        send. A table may hold more than 2 GiB of images (`large_binary`).

        Args:
          row_groups: numbers of row groups, counted through all shards.
        Raises: DataError if a shard is missing, damaged or not the manifest's, or the storage
          fails.
        """
        parts = list(self._parts(np.sort(row_groups)))
        filesystem, path = locate(self.root)
        name = public_name(self.root)

        def read(part: tuple[int, list[int]]) -> pa.Table:
            shard, groups = part
            table = read_row_groups(filesystem, path, name, self.manifest.shards[shard], groups)
            return _with_large_images(table).append_column("row", self._numbers(shard, groups))

        if len(parts) < 2:
            tables = [read(part) for part in parts]
        else:
            with ThreadPoolExecutor(min(_READ_AT_ONCE, len(parts)), "row-groups") as pool:
                tables = list(pool.map(read, parts))
        empty = SAMPLES.append(pa.field("row", pa.int64())).empty_table()
        return pa.concat_tables([_with_large_images(empty), *tables])

    def _parts(self, row_groups: NDArray[np.int64]) -> Iterator[tuple[int, list[int]]]:
        """Shards and numbers of row groups in each: what is worth a request of its own."""
        size = self.manifest.rows_per_row_group
        bytes_per_group = self.manifest.num_bytes * size // max(1, self.manifest.num_rows)
        at_once = max(1, _REQUEST_BYTES // max(1, bytes_per_group))
        first_rows = row_groups * size
        shard_of = np.searchsorted(self._first_rows, first_rows, side="right") - 1
        for shard in np.unique(shard_of).tolist():
            groups = ((first_rows[shard_of == shard] - self._first_rows[shard]) // size).tolist()
            for first in range(0, len(groups), at_once):
                yield shard, groups[first : first + at_once]

    def _numbers(self, shard: int, groups: Sequence[int]) -> pa.Array:
        """The numbers of the rows in these row groups of a shard."""
        size, start = self.manifest.rows_per_row_group, self._first_rows[shard]
        stop = self._first_rows[shard + 1]
        edges = [(start + group * size, start + (group + 1) * size) for group in groups]
        return pa.array(np.concatenate([np.arange(a, min(b, stop)) for a, b in edges]))

    def read_columns(self, names: Sequence[str]) -> pa.Table:
        """These columns of all rows, in the order of their numbers; nothing else is read.

        Raises: DataError, as `read` does.
        """
        filesystem, path = locate(self.root)
        size = self.manifest.rows_per_row_group
        return pa.concat_tables(
            read_row_groups(
                filesystem,
                path,
                public_name(self.root),
                shard,
                range(-(-shard.num_rows // size)),
                names,
            )
            for shard in self.manifest.shards
        )

    def read_share(self, rank: int, world_size: int, most_rows: int) -> pa.Table:
        """One worker's share of the first `most_rows` rows, rounded up to whole row groups.

        The workers take row groups in turn: worker `rank` reads every `world_size`-th one.
        """
        count = -(-min(self.manifest.num_rows, most_rows) // self.manifest.rows_per_row_group)
        return self.read(np.arange(rank, count, world_size))


def is_shards(root: str) -> bool:
    """Whether `root` is a folder of shards: its manifest describes some.

    So is one whose manifest is empty or was cut short, if shards lie beside it; opening it says so.
    A manifest among images that is of something else is looked at, and makes no shards.

    Raises: DataError if shards lie beside a manifest of something else.
    """
    filesystem, path = locate(root)
    if filesystem.get_file_info(f"{path}/{MANIFEST}").type != pa.fs.FileType.File:
        return False
    tree = _read_manifest(root)
    if isinstance(tree, dict) and tree.keys() >= _OF_A_MANIFEST:
        return True
    beside = any(name.startswith("shard-") for name in _names(filesystem, path))
    if beside and tree is not None:
        raise DataError(
            f"{MANIFEST} in {public_name(root)!r} is not the manifest of the shards beside it; "
            "prepare the data again into a new folder."
        )
    return beside


def _read_manifest(root: str) -> Any:
    """What JSON the manifest holds; None if it is none. Raises: FileNotFoundError."""
    filesystem, path = locate(root)
    with filesystem.open_input_stream(f"{path}/{MANIFEST}") as stream:
        try:
            return json.loads(stream.read())
        except (ValueError, RecursionError):
            return None


def _names(filesystem: pa.fs.FileSystem, folder: str) -> list[str]:
    return [info.base_name for info in filesystem.get_file_info(pa.fs.FileSelector(folder))]


def _is_newer(schema: Any) -> bool:
    return isinstance(schema, int) and schema > SCHEMA_VERSION


def take_rows(table: pa.Table, rows: NDArray[np.int64]) -> pa.Table:
    """The rows numbered `rows`, in that order, of a table that `ShardSet.read` returned."""
    position = np.argsort(table["row"].to_numpy())
    numbers = table["row"].to_numpy()[position]
    return table.take(position[np.searchsorted(numbers, rows)])
