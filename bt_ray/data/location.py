"""Where data lie: paths and URIs that pyarrow opens, and files written whole."""

import errno
import os
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.fs

from bt_ray.errors import DataError, StorageRefusedError
from bt_ray.redaction import redact, without_credentials

MANIFEST = "manifest.json"
"""Name of the file that describes a folder of shards."""


def locate(name: str) -> tuple[pa.fs.FileSystem, str]:
    """The file system that `name`, a path or a URI, lies in, and its path there.

    Raises: DataError if pyarrow knows no such kind of URI.
    """
    if "://" not in name:
        return pa.fs.LocalFileSystem(), str(Path(name).expanduser().resolve())
    try:
        filesystem, path = pa.fs.FileSystem.from_uri(name)
    except (ValueError, OSError) as error:
        reason = first_line(error).replace(name, public_name(name))  # pyarrow repeats it whole
        raise DataError(
            f"{public_name(name)!r} cannot be opened ({reason}); give a path, or a "
            "URI such as file://, s3:// or gs://."
        ) from error
    return filesystem, path.rstrip("/")


def is_local(name: str) -> bool:
    """Whether `name` lies in this machine's own file system."""
    return isinstance(locate(name)[0], pa.fs.LocalFileSystem)


def public_name(name: str) -> str:
    """`name` without what a URI may carry beside the place: keys, and options of the server."""
    if "://" not in name:
        return name
    parts = urlsplit(without_credentials(name))
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def first_line(error: Exception) -> str:
    """The error in one line, without passwords and keys."""
    return redact(next(iter(str(error).splitlines()), type(error).__name__))


_REFUSALS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}


def refusal(error: OSError, place: str) -> StorageRefusedError | None:
    """The error of a run whose storage is full, or read-only; none for what may pass."""
    if error.errno not in _REFUSALS:
        return None
    return StorageRefusedError(
        f"{place} cannot be written to ({os.strerror(error.errno or 0)}). What is saved is kept: "
        "make room or give access, and the same command continues the run."
    )


def list_files(filesystem: pa.fs.FileSystem, folder: str) -> list[pa.fs.FileInfo]:
    """All files below `folder`, in the order of their paths; none if it is not there."""
    selector = pa.fs.FileSelector(folder, recursive=True, allow_not_found=True)
    infos = filesystem.get_file_info(selector)
    files = (info for info in infos if info.type == pa.fs.FileType.File)
    return sorted(files, key=lambda info: str(info.path))


def append_line(file: Path, line: str) -> None:
    """Adds a line to a file of this machine, also after one that a full disk cut short."""
    with file.open("a+b") as stream:
        is_torn = stream.tell() > 0 and stream.seek(-1, 2) >= 0 and stream.read(1) != b"\n"
        stream.write(b"\n" * is_torn + line.encode() + b"\n")


def write_text(file: Path, text: str) -> None:
    """Writes a small file of this machine whole or not at all, as `write_whole` does."""
    write_whole(pa.fs.LocalFileSystem(), str(file), text.encode())


def write_whole(filesystem: pa.fs.FileSystem, path: str, content: bytes) -> None:
    """Writes a small file that is there either whole or not at all, even after a kill.

    Object stores keep nothing of an unfinished object; elsewhere a file is renamed when whole.
    """
    is_renamed = isinstance(filesystem, pa.fs.LocalFileSystem)
    unfinished = f"{path}.part" if is_renamed else path
    with filesystem.open_output_stream(unfinished) as stream:
        stream.write(content)
    if is_renamed:
        filesystem.move(unfinished, path)
