"""Shards: a folder of Parquet files of encoded images, and a manifest that describes them.

Rows are numbered through all shards; every row group but the very last has the same number
of rows, so that a row's number tells its row group. The manifest is written last: a folder
without one is not a data set.
"""

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from bt_ray.data.sources import Source, SourceImage
from bt_ray.errors import DataError

T = TypeVar("T")

MANIFEST = "manifest.json"
SCHEMA_VERSION = 1
_ROWS_PER_SHARD = 16_384

COLUMNS = pa.schema(
    [
        ("sample_id", pa.string()),
        ("image", pa.binary()),
        ("label", pa.int32()),
        ("width", pa.int32()),
        ("height", pa.int32()),
    ]
)
"""`image` is the file as it was found; `label` is null where there is none."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One Parquet file of a data set."""

    file: str
    num_rows: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a folder of shards holds."""

    schema_version: int
    identity: str
    classes: tuple[str, ...]
    num_rows: int
    num_bytes: int
    rows_per_row_group: int
    shards: tuple[Shard, ...]

    @property
    def digest(self) -> str:
        """SHA-256 over the manifest, and so over the checksums of all shards."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """The manifest as the text of its file."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False)


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

        Raises: DataError if there is no manifest, or one of a newer schema.
        """
        filesystem, path = _locate(root)
        try:
            with filesystem.open_input_stream(f"{path}/{MANIFEST}") as stream:
                tree = json.loads(stream.read())
        except FileNotFoundError as error:
            raise DataError(f"{root!r} holds no {MANIFEST}; write shards with "
                            "`python -m pipelines.prepare SOURCE DEST`.") from error  # fmt: skip
        if tree["schema_version"] > SCHEMA_VERSION:
            raise DataError(
                f"The shards in {root!r} have schema {tree['schema_version']}; this bt_ray "
                f"reads up to {SCHEMA_VERSION}. Use a newer bt_ray."
            )
        shards = tuple(Shard(**shard) for shard in tree.pop("shards"))
        classes = tuple(tree.pop("classes"))
        return cls(root, Manifest(classes=classes, shards=shards, **tree))

    @cached_property
    def _first_rows(self) -> NDArray[np.int64]:
        return np.cumsum([0] + [shard.num_rows for shard in self.manifest.shards])

    def read(self, row_groups: NDArray[np.int64]) -> pa.Table:
        """Rows of some row groups, in ascending order of their numbers, with a column `row`.

        Each row group is read once, and each shard opened once.
        """
        filesystem, path = _locate(self.root)
        size = self.manifest.rows_per_row_group
        first_rows = np.sort(row_groups) * size
        shard_of = np.searchsorted(self._first_rows, first_rows, side="right") - 1
        tables = [COLUMNS.append(pa.field("row", pa.int64())).empty_table()]
        for shard in np.unique(shard_of):
            starts = first_rows[shard_of == shard]
            groups = (starts - self._first_rows[shard]) // size
            with filesystem.open_input_file(f"{path}/{self.manifest.shards[shard].file}") as file:
                table = pq.ParquetFile(file).read_row_groups(groups.tolist())
            stops = np.minimum(starts + size, self._first_rows[shard + 1])
            rows = np.concatenate([np.arange(a, b) for a, b in zip(starts, stops, strict=True)])
            tables.append(table.append_column("row", pa.array(rows)))
        return pa.concat_tables(tables)

    def read_share(self, rank: int, world_size: int, most_rows: int) -> pa.Table:
        """One worker's share, every `world_size`-th row group, of the first `most_rows` rows.

        The last row group counts whole.
        """
        count = -(-min(self.manifest.num_rows, most_rows) // self.manifest.rows_per_row_group)
        return self.read(np.arange(rank, count, world_size))


def is_shards(root: str) -> bool:
    """Whether `root` is a folder of shards."""
    filesystem, path = _locate(root)
    info = filesystem.get_file_info(f"{path}/{MANIFEST}")
    return bool(info.type == pa.fs.FileType.File)


def write_shards(
    source: Source,
    root: str,
    *,
    rows_per_row_group: int,
    on_progress: Callable[[int], None] = lambda done: None,
) -> ShardSet:
    """Writes all images of `source` as shards into the new folder `root`.

    Raises: DataError if the folder holds something already, or an image cannot be opened.
    """
    filesystem, path = _locate(root)
    if filesystem.get_file_info(pa.fs.FileSelector(path, allow_not_found=True)):
        raise DataError(f"{root!r} is not empty; give a new folder or remove it first.")
    filesystem.create_dir(path, recursive=True)
    groups_per_shard = max(1, _ROWS_PER_SHARD // rows_per_row_group)
    groups = (to_table(images) for images in _batched(source.images, rows_per_row_group))
    shards, num_rows, num_bytes = [], 0, 0
    for number, tables in enumerate(_batched(groups, groups_per_shard)):
        shard = _write_shard(filesystem, path, f"shard-{number:05d}.parquet", tables)
        shards.append(shard)
        num_rows += shard.num_rows
        num_bytes += sum(table.nbytes for table in tables)
        on_progress(num_rows)
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        identity=source.identity,
        classes=source.classes,
        num_rows=num_rows,
        num_bytes=num_bytes,
        rows_per_row_group=rows_per_row_group,
        shards=tuple(shards),
    )
    with filesystem.open_output_stream(f"{path}/{MANIFEST}") as stream:
        stream.write(manifest.to_json().encode())
    return ShardSet(root, manifest)


def _write_shard(
    filesystem: pa.fs.FileSystem, path: str, name: str, tables: tuple[pa.Table, ...]
) -> Shard:
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, COLUMNS, compression={"image": "none"}) as writer:
        for table in tables:
            writer.write_table(table, row_group_size=table.num_rows)
    content = buffer.getvalue()
    with filesystem.open_output_stream(f"{path}/{name}") as stream:
        stream.write(content)
    return Shard(
        file=name,
        num_rows=sum(table.num_rows for table in tables),
        sha256=hashlib.sha256(content).hexdigest(),
    )


def to_table(images: tuple[SourceImage, ...]) -> pa.Table:
    """The images as rows of a shard.

    Raises: DataError if one of them cannot be decoded.
    """
    sizes = [_size(image) for image in images]
    return pa.table(
        {
            "sample_id": [image.sample_id for image in images],
            "image": [image.encoded for image in images],
            "label": [image.label for image in images],
            "width": [width for width, _ in sizes],
            "height": [height for _, height in sizes],
        },
        schema=COLUMNS,
    )


def _size(image: SourceImage) -> tuple[int, int]:
    """Width and height, of an image that is known to decode."""
    try:
        with Image.open(io.BytesIO(image.encoded)) as opened:
            opened.load()
            return opened.size
    except (OSError, Image.DecompressionBombError) as error:
        fault = "no image" if isinstance(error, UnidentifiedImageError) else error
        raise DataError(
            f"{image.sample_id!r} cannot be decoded ({fault}); remove or repair it."
        ) from error


def _locate(root: str) -> tuple[pa.fs.FileSystem, str]:
    if "://" in root:
        return pa.fs.FileSystem.from_uri(root)  # type: ignore[no-any-return]
    return pa.fs.LocalFileSystem(), str(Path(root).expanduser().resolve())


def take_rows(table: pa.Table, rows: NDArray[np.int64]) -> pa.Table:
    """The rows numbered `rows`, in that order, of a table that `ShardSet.read` returned."""
    position = np.argsort(table["row"].to_numpy())
    numbers = table["row"].to_numpy()[position]
    return table.take(position[np.searchsorted(numbers, rows)])


def _batched(items: Iterator[T], size: int) -> Iterator[tuple[T, ...]]:
    return iter(lambda: tuple(islice(items, size)), ())
