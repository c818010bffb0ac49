"""How fast a node writes to the storage and reads from it, with files that are removed after."""

import os
import re
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.fs

from bt_ray.data.location import first_line, locate, write_whole
from bt_ray.errors import DataError

_SMALL_FILES, _SMALL_BYTES = 8, 4096
_CHUNK_BYTES, _CHUNKS = 4 << 20, 16
_LIMIT_S = 8.0
"""Of writing the large file, and of reading it: a slow storage is measured by what was done."""


@dataclass(frozen=True, kw_only=True)
class StorageFacts:
    """What a node could do with the storage; none where it was not got to."""

    small_write_ms: float | None = None
    """Of a file of 4 KiB, the slowest of eight."""
    small_read_ms: float | None = None
    write_mb_s: float | None = None
    """Of one file of 64 MiB, until it was on the disk or in the bucket."""
    read_mb_s: float | None = None
    whole: bool = True
    """Whether what was read is what was written."""
    fault: str | None = None
    """What went wrong, in one line."""
    unseen: tuple[str, ...] = ()
    """Nodes whose marker this node does not see."""


def trial_folder(storage: str, name: str) -> str:
    """A path or URI below the storage for this trial's files; options of a URI stay."""
    place, mark, options = storage.partition("?") if "://" in storage else (storage, "", "")
    return f"{place.rstrip('/')}/.doctor-{name}{mark}{options}"


def marker_of(node: str) -> str:
    """Name of the file by which a node shows the others that it writes to the same place."""
    return "seen-" + re.sub(r"[^\w.-]", "-", node)


def measure_storage(folder: str, node: str) -> StorageFacts:
    """Writes a marker, small files and a large one to `folder`, reads them, removes all but it."""
    facts = StorageFacts()
    try:
        filesystem, path = locate(folder)
        filesystem.create_dir(path, recursive=True)
        write_whole(filesystem, f"{path}/{marker_of(node)}", b"here")
        own = f"{path}/of-{marker_of(node)}"
        filesystem.create_dir(own, recursive=True)
        try:
            facts = _measure_small(filesystem, own, facts)
            facts = _measure_large(filesystem, f"{own}/large", facts)
        finally:
            filesystem.delete_dir(own)
    except (OSError, DataError) as error:
        return replace(facts, fault=first_line(error))
    return facts


def _measure_small(filesystem: pa.fs.FileSystem, folder: str, facts: StorageFacts) -> StorageFacts:
    content = os.urandom(_SMALL_BYTES)
    writes, reads, whole = [], [], True
    for number in range(_SMALL_FILES):
        path = f"{folder}/{number}"
        began = time.perf_counter()
        write_whole(filesystem, path, content)
        writes.append(time.perf_counter() - began)
        began = time.perf_counter()
        with filesystem.open_input_stream(path) as stream:
            whole &= stream.read() == content
        reads.append(time.perf_counter() - began)
    return replace(
        facts, small_write_ms=1e3 * max(writes), small_read_ms=1e3 * max(reads), whole=whole
    )


def _measure_large(filesystem: pa.fs.FileSystem, path: str, facts: StorageFacts) -> StorageFacts:
    chunk = os.urandom(_CHUNK_BYTES)
    began, written = time.perf_counter(), 0
    with filesystem.open_output_stream(path) as stream:
        for _ in range(_CHUNKS):
            stream.write(chunk)
            written += len(chunk)
            if time.perf_counter() - began > _LIMIT_S:
                break
    _settle(filesystem, path)
    facts = replace(facts, write_mb_s=written / (time.perf_counter() - began) / 1e6)
    began, read, whole = time.perf_counter(), 0, facts.whole
    with filesystem.open_input_stream(path) as stream:
        while part := _read(stream, _CHUNK_BYTES):
            whole &= part == chunk
            read += len(part)
            if time.perf_counter() - began > _LIMIT_S:
                break
    whole &= read == written or time.perf_counter() - began > _LIMIT_S
    return replace(facts, read_mb_s=read / (time.perf_counter() - began) / 1e6, whole=whole)


def _read(stream: pa.NativeFile, num_bytes: int) -> bytes:
    """The next bytes, as many as that unless the file ends; object stores may give fewer."""
    parts = []
    while num_bytes and (part := stream.read(num_bytes)):
        parts.append(part)
        num_bytes -= len(part)
    return b"".join(parts)


def _settle(filesystem: pa.fs.FileSystem, path: str) -> None:
    """Has a local file written to its disk and dropped from memory, so that the disk is measured.

    Close does that for object stores.
    """
    if not isinstance(filesystem, pa.fs.LocalFileSystem):
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def unseen_markers(folder: str, nodes: tuple[str, ...]) -> tuple[str, ...]:
    """Which of the nodes' markers are not in the folder as this node sees it."""
    try:
        filesystem, path = locate(folder)
        infos = filesystem.get_file_info([f"{path}/{marker_of(node)}" for node in nodes])
    except (OSError, DataError):
        return nodes
    found = [info.type == pa.fs.FileType.File for info in infos]
    return tuple(node for node, is_there in zip(nodes, found, strict=True) if not is_there)


def remove_trial(folder: str, storage_is_new: bool) -> None:
    """Removes what the trial left, as far as that can be done.

    Args:
      storage_is_new: the folder above was not there before; it goes too, if it is empty.
    """
    with suppress(OSError, DataError):
        filesystem, path = locate(folder)
        if filesystem.get_file_info(path).type != pa.fs.FileType.NotFound:
            filesystem.delete_dir(path)
        if storage_is_new and isinstance(filesystem, pa.fs.LocalFileSystem):
            Path(path).parent.rmdir()


def is_new(storage: str) -> bool:
    """Whether the storage is a folder of this machine that is still to be made."""
    return "://" not in storage and not Path(storage).exists()
