"""Parquet files with a column of encoded images, such as Hugging Face's."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from bt_ray.data.location import MANIFEST, first_line, locate, public_name
from bt_ray.data.sources.found import Found
from bt_ray.data.sources.ours import is_manifest
from bt_ray.data.sources.source import Source, identify, index, name_classes
from bt_ray.errors import DataError

_IMAGE_NAMES = ("image", "img", "image.bytes", "jpg", "png", "bytes")
_LABEL_NAMES = ("label", "labels", "cls", "fine_label", "class", "class_name")


@dataclass(frozen=True)
class _Rows:
    """Reads images from `column` of the files; the index has `file`, `row_group` and `row`."""

    root: str
    files: tuple[str, ...]
    column: str

    def read(self, entries: pa.Table) -> Iterator[bytes]:
        """The images; each row group is read once, and only the wanted rows are kept."""
        filesystem, _ = locate(self.root)
        places = np.stack([entries[name].to_numpy() for name in ("file", "row_group", "row")])
        held = np.empty(entries.num_rows, dtype=object)
        for file in np.unique(places[0]):
            with filesystem.open_input_file(self.files[file]) as opened:
                parquet = pq.ParquetFile(opened)
                for group in np.unique(places[1, places[0] == file]):
                    wanted = np.flatnonzero((places[0] == file) & (places[1] == group))
                    table = parquet.read_row_group(int(group), columns=[self.column])
                    held[wanted] = _values(table, places[2, wanted])
        for position in range(len(held)):
            yield held[position]
            held[position] = None


def _values(table: pa.Table, rows: np.ndarray[Any, np.dtype[np.int64]]) -> list[bytes]:
    """Rows of the table's only column, which may be a field of a struct; null becomes b""."""
    column = table.column(0).combine_chunks()
    if pa.types.is_struct(column.type):
        column = column.flatten()[0]
    return [value.as_py() or b"" for value in column.take(pa.array(rows))]


def parquet_files(name: str, uris: list[str], *, labelled: bool = True) -> Source:
    """The images in the files `uris`, all of one file system and one schema, as one source.

    Images lie in a column of bytes or, as Hugging Face writes them, of structs with a field
    `bytes`; labels lie in a column `label` (or one of a similar name) of numbers, where −1 means no
    label, or of words. The classes' names come from Hugging Face's metadata, or from the manifest
    beside our own shards.

    Raises: DataError if a file is missing, is not Parquet, or has no such column.
    """
    filesystem, _ = locate(uris[0])
    paths = [locate(uri)[1] for uri in uris]
    tables, num_bytes, column, metadata = [], 0, "", pa.schema([])
    for number, path in enumerate(paths):
        try:
            with filesystem.open_input_file(path) as opened:
                parquet = pq.ParquetFile(opened)
                metadata = parquet.schema_arrow
                column = _image_column(metadata, path)
                label = _label_column(metadata) if labelled else None
                tables.append(_places(parquet, number, column, label))
                num_bytes += _column_bytes(parquet, column)
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(
                f"{path!r} cannot be read as Parquet ({first_line(error)}); see that it is whole."
            ) from error
    rows = pa.concat_tables(tables)
    if not rows.num_rows:
        raise DataError(f"There is no row in {public_name(name)!r}; give files that hold images.")
    names = _hugging_face_names(metadata) or _own_names(filesystem, paths[0])
    classes, labels = _labels(rows["label"], names)
    files = [path.rpartition("/")[2] for path in paths]
    if len(set(files)) < len(files):
        files = paths
    columns = [rows[key].to_pylist() for key in ("file", "in_file")]
    ids = [f"{files[file]}:{row:07d}" for file, row in zip(*columns, strict=True)]
    origins = [
        f"{files[file]}/{path}" if path else sample_id
        for sample_id, file, path in zip(ids, columns[0], rows["path"].to_pylist(), strict=True)
    ]
    infos = filesystem.get_file_info(paths)
    facts = (f"{info.path} {info.size} {info.mtime_ns}" for info in infos)
    stem = public_name(name).rstrip("/").rpartition("/")[2].removesuffix(".parquet")
    return Source(
        identity=identify(stem, (public_name(name), *facts)),
        classes=classes,
        entries=index(
            ids, labels, origins=origins, **{k: rows[k] for k in ("file", "row_group", "row")}
        ),
        reader=_Rows(uris[0], tuple(paths), column),
        num_bytes=num_bytes + sum(map(len, ids)),
        name=public_name(name),
        stored_order=("file", "row_group", "row"),
        found=Found(taken=len(ids)),
    )


def _image_column(schema: pa.Schema, path: str) -> str:
    """The name of the leaf column that holds encoded images."""

    def leaf(field: pa.Field) -> str | None:
        if pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0:
            return f"{field.name}.bytes"
        if pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type):
            return str(field.name)
        return None

    leaves = {field.name: found for field in schema if (found := leaf(field)) is not None}
    for name in _IMAGE_NAMES:
        if name in leaves:
            return leaves[name]
    if len(leaves) == 1:
        return next(iter(leaves.values()))
    raise DataError(
        f"{path!r} has no column of images: one of bytes, or of structs with a field 'bytes', "
        f"named {', '.join(_IMAGE_NAMES)}; it has {', '.join(schema.names)}."
    )


def _label_column(schema: pa.Schema) -> str | None:
    kinds = (pa.types.is_integer, pa.types.is_string, pa.types.is_large_string)
    for name in _LABEL_NAMES:
        if name in schema.names and any(is_kind(schema.field(name).type) for is_kind in kinds):
            return name
    return None


def _places(parquet: pq.ParquetFile, file: int, column: str, label: str | None) -> pa.Table:
    """Where each row lies, its label, and its path if the file tells one."""
    sizes = [parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)]
    num_rows = sum(sizes)
    path = column.removesuffix("bytes") + "path" if column.endswith(".bytes") else None
    leaves = [parquet.schema.column(i).path for i in range(len(parquet.schema.names))]
    wanted = [name for name in (label, path) if name in leaves]
    table = parquet.read(columns=wanted) if wanted else pa.table({})
    labels = table[label] if label is not None else pa.nulls(num_rows, pa.int64())
    paths = pa.nulls(num_rows, pa.string())
    if path in leaves:
        paths = table[column.partition(".")[0]].combine_chunks().flatten()[0]
    return pa.table({
        "file": pa.array(np.full(num_rows, file), pa.int32()),
        "row_group": pa.array(np.repeat(np.arange(len(sizes)), sizes), pa.int32()),
        "row": pa.array(np.concatenate([np.arange(n) for n in [0, *sizes]]), pa.int32()),
        "in_file": pa.array(np.arange(num_rows), pa.int64()),
        "label": labels.cast(pa.string() if _is_words(labels.type) else pa.int64()),
        "path": paths.cast(pa.string()),
    })  # fmt: skip


def _is_words(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _column_bytes(parquet: pq.ParquetFile, column: str) -> int:
    """Size of a column before its compression."""
    metadata = parquet.metadata
    leaf = next(i for i in range(metadata.num_columns) if parquet.schema.column(i).path == column)
    groups = (metadata.row_group(i) for i in range(metadata.num_row_groups))
    return sum(group.column(leaf).total_uncompressed_size for group in groups)


def _labels(
    column: pa.ChunkedArray, names: tuple[str, ...]
) -> tuple[tuple[str, ...], list[int | None]]:
    """Classes, and each row's label; `names` are the classes' names, if they are known."""
    values = column.to_pylist()
    given = [value for value in values if value is not None and value != -1]
    if not given:
        return (), [None] * len(values)
    if _is_words(column.type):
        classes, numbers = name_classes(given)
        label_of = dict(zip(given, numbers, strict=True))
        return classes, [None if value is None else label_of[value] for value in values]
    names = names or tuple(str(n) for n in range(max(given) + 1))
    if not 0 <= min(given) <= max(given) < len(names):
        raise DataError(
            f"The labels go from {min(given)} to {max(given)}, but there are {len(names)} classes; "
            "labels count from 0, and -1 is none."
        )
    return names, [None if value == -1 else value for value in values]


def _hugging_face_names(schema: pa.Schema) -> tuple[str, ...]:
    """Names of the classes as Hugging Face's metadata tell them, or none."""
    described = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = described.get("info", {}).get("features", {})
    return tuple(features.get(_label_column(schema) or "", {}).get("names", ()))


def _own_names(filesystem: pa.fs.FileSystem, path: str) -> tuple[str, ...]:
    """Names of the classes as the manifest beside our own shards tells them, or none."""
    manifest = f"{path.rpartition('/')[0]}/{MANIFEST}"
    if filesystem.get_file_info(manifest).type != pa.fs.FileType.File:
        return ()
    with filesystem.open_input_stream(manifest) as stream:
        try:
            tree = json.loads(stream.read())
        except ValueError:
            return ()
    return tuple(tree["classes"]) if is_manifest(tree) and "classes" in tree else ()
