"""Finds the images in a tar archive, by reading its headers alone."""

import io
import tarfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from bt_ray.data.location import first_line
from bt_ray.data.sources.found import Found, printable
from bt_ray.data.sources.keys import KeyedLabels
from bt_ray.data.sources.kinds import set_aside_path, why_no_image
from bt_ray.errors import DataError

LINKS = "links, devices or sparse files"
_NESTED_AT_ONCE = 16
_READ_AHEAD = 2**20  # bytes; a request to an object store takes as long as to read over images


@dataclass(frozen=True)
class Member:
    """An image in an archive, or an archive in it: its place in bytes, and its label, if any."""

    name: str
    offset: int
    size: int
    word: str | None = None


class _Part(io.RawIOBase):
    """A range of a file, readable like a file; several ranges may be read at the same time."""

    def __init__(self, file: pa.NativeFile, offset: int, size: int) -> None:
        self._file, self._offset, self._size, self._place = file, offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        self._place = base + offset
        return self._place

    def readinto(self, buffer: Any) -> int:
        wanted = max(0, min(len(buffer), self._size - self._place))
        read = self._file.read_at(wanted, self._offset + self._place) if wanted else b""
        buffer[: len(read)] = read
        self._place += len(read)
        return len(read)


def list_members(filesystem: pa.fs.FileSystem, path: str) -> tuple[list[Member], Found]:
    """The images of one archive and those of the archives in it, and what was passed over.

    Links and sparse files are passed over: they hold no bytes of their own.

    Raises: DataError if the file is not a tar archive, is compressed, or is cut short; or if it
      cannot be told which label an image has.
    """
    read_ahead = 512 if isinstance(filesystem, pa.fs.LocalFileSystem) else _READ_AHEAD
    try:
        with filesystem.open_input_file(path) as file:
            whole = Member(path.rpartition("/")[2], 0, file.size())
            images, archives, found = _scan(file, whole, read_ahead)
            with ThreadPoolExecutor(_NESTED_AT_ONCE) as pool:
                for archive, (inner, deeper, inner_found) in zip(
                    archives,
                    pool.map(lambda archive: _scan(file, archive, read_ahead), archives),
                    strict=True,
                ):
                    if deeper:
                        raise DataError(
                            f"{deeper[0].name!r} lies in an archive in an archive of {path!r}; "
                            "unpack the outermost one."
                        )
                    word = PurePosixPath(archive.name).stem
                    found.add(inner_found)
                    images += [
                        replace(image, name=f"{archive.name}/{image.name}", word=word)
                        for image in inner
                    ]
    except OSError as error:
        raise DataError(
            f"The archive {path!r} cannot be read ({first_line(error)}); see that it is whole and "
            "within reach."
        ) from error
    return images, found


def _scan(
    file: pa.NativeFile, whole: Member, read_ahead: int
) -> tuple[list[Member], list[Member], Found]:
    """The images and the nested archives of one archive, which is a part of `file`."""
    images: list[Member] = []
    archives: list[Member] = []
    labels, found = KeyedLabels(whole.name), Found()
    part = io.BufferedReader(_Part(file, whole.offset, whole.size), read_ahead)
    try:
        with tarfile.open(fileobj=part, mode="r:", errors="surrogateescape") as tar:
            while (info := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # kept otherwise, 1,281,167 of them
                name = printable(info.name.removeprefix("./"))
                member = Member(name, whole.offset + info.offset_data, info.size)
                if info.isdir():
                    continue
                if (reason := set_aside_path(info.name)) is not None:
                    found.pass_over(reason, name)
                elif not info.isreg() or info.sparse is not None:
                    found.pass_over(LINKS, name)
                elif name.lower().endswith(".tar"):
                    archives.append(member)
                elif name.lower().endswith(".cls"):
                    labels.add(name, file.read_at(info.size, member.offset))
                elif (reason := why_no_image(name, partial(_open, file, member))) is None:
                    images.append(member)
                else:
                    found.pass_over(reason, name)
            end = whole.offset + tar.offset
    except tarfile.ReadError as error:
        raise DataError(_fault(file, whole, error)) from error
    if not _is_end(file, end, whole):
        raise DataError(
            f"The archive {whole.name!r} is cut short or damaged: after its {len(images):,} images "
            f"the mark of its end is missing at byte {end:,}; get it again."
        )
    return [replace(image, word=labels.of(image.name)) for image in images], archives, found


def _open(file: pa.NativeFile, member: Member) -> io.BufferedReader:
    return io.BufferedReader(_Part(file, member.offset, member.size))


def _is_end(file: pa.NativeFile, offset: int, whole: Member) -> bool:
    """Whether a block of zeros, which ends an archive, is at `offset`; else the rest is lost."""
    is_inside = offset + tarfile.BLOCKSIZE <= whole.offset + whole.size
    return is_inside and file.read_at(tarfile.BLOCKSIZE, offset) == bytes(tarfile.BLOCKSIZE)


def _fault(file: pa.NativeFile, whole: Member, error: tarfile.ReadError) -> str:
    start = file.read_at(6, whole.offset)
    if start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")):
        return (
            f"The archive {whole.name!r} is compressed, so that its images have no place to be "
            "read at; decompress it first (gunzip, bunzip2, unxz, unzstd)."
        )
    if "unexpected end" in str(error):
        return f"The archive {whole.name!r} is cut short ({error}); get it again."
    return f"{whole.name!r} is no tar archive ({error}); give one, or a folder of images."
