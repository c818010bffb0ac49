"""Whether a node reaches the images that a run is to train on, and how fast it reads them."""

import itertools
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.fs

from bt_ray.data.location import MANIFEST, first_line, locate
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.sources.listings import is_listing
from bt_ray.data.sources.names import expand_braces
from bt_ray.errors import DataError

_LIMIT_S, _LIMIT_BYTES, _PART_BYTES = 5.0, 64 << 20, 4 << 20


@dataclass(frozen=True, kw_only=True)
class ImageFacts:
    """What a node found where the images are said to be."""

    kind: str = "files"
    """files, shards, or built in: a data set that is named, not a place."""
    num_files: int = 0
    """Files that were read of it."""
    read_mb_s: float | None = None
    fault: str | None = None
    """Why it cannot be read, in one line."""


def measure_images(name: str) -> ImageFacts:
    """Reads up to 64 MiB of the images' files, for five seconds at most.

    Args:
      name: whatever `data.train` may be.
    """
    facts = ImageFacts()
    if is_listing(name) or name.partition(":")[0] in ("digits", "torchvision"):
        return replace(facts, kind="built in")
    if name in ("cifar10", "cifar10:test") and not Path(name).is_dir():
        return replace(facts, kind="built in")
    try:
        filesystem, path = locate(expand_braces(name)[0])
        if filesystem.get_file_info(f"{path}/{MANIFEST}").type == pa.fs.FileType.File:
            facts = replace(facts, kind="shards")
            shards = ShardSet.open(name).manifest.shards
            files: Iterator[str] = (f"{path}/{shard.file}" for shard in shards)
        else:
            files = _files(filesystem, path)
        return _read(filesystem, files, facts)
    except (OSError, DataError) as error:
        return replace(facts, fault=first_line(error))


def _files(filesystem: pa.fs.FileSystem, path: str) -> Iterator[str]:
    """Some files at or below a path: the first that are found, as there may be millions.

    Raises: DataError if there is nothing.
    """
    kind = filesystem.get_file_info(path).type
    if kind == pa.fs.FileType.NotFound:
        raise DataError("nothing is there")
    if kind == pa.fs.FileType.File:
        yield path
    elif isinstance(filesystem, pa.fs.LocalFileSystem):
        for folder, _, names in os.walk(path):
            yield from (str(Path(folder) / name) for name in names)
    else:
        yield from _walk(filesystem, path)


def _walk(filesystem: pa.fs.FileSystem, path: str) -> Iterator[str]:
    """Files below a folder of an object store, one folder's listing at a time."""
    infos = filesystem.get_file_info(pa.fs.FileSelector(path))
    yield from (str(info.path) for info in infos if info.type == pa.fs.FileType.File)
    for info in infos:
        if info.type == pa.fs.FileType.Directory:
            yield from _walk(filesystem, str(info.path))


def _read(filesystem: pa.fs.FileSystem, files: Iterator[str], facts: ImageFacts) -> ImageFacts:
    began, read, count = time.perf_counter(), 0, 0
    for file in itertools.islice(files, 10_000):
        count += 1
        with filesystem.open_input_stream(file) as stream:
            while part := stream.read(_PART_BYTES):
                read += len(part)
                if read >= _LIMIT_BYTES or time.perf_counter() - began > _LIMIT_S:
                    break
        if read >= _LIMIT_BYTES or time.perf_counter() - began > _LIMIT_S:
            break
    if not count:
        raise DataError("there is no file in it")
    return replace(facts, num_files=count, read_mb_s=read / (time.perf_counter() - began) / 1e6)
