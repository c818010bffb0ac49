"""A folder in some storage: files that are written whole, listed and copied, wherever it lies."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.fs

from bt_ray.data.location import first_line, locate, public_name, write_whole
from bt_ray.errors import StorageError

_AT_ONCE = 8


@dataclass(frozen=True)
class Store:
    """A folder, named by a path or a URI; names of its files are relative, with slashes.

    Every method raises StorageError if the storage does not answer, or refuses. A process that it
    is sent to has the storage's keys in its own environment, or in the URI.
    """

    uri: str

    @property
    def shown(self) -> str:
        """The URI as people may see it."""
        return public_name(self.uri)

    def below(self, name: str) -> "Store":
        """The folder of this name in this one."""
        place, mark, options = self.uri.partition("?")
        if not name:
            return self
        if "://" not in self.uri:
            return Store(str(Path(self.uri) / name))
        return Store(f"{place.rstrip('/')}/{name}{mark}{options}")

    def sizes(self) -> dict[str, int]:
        """Names of all files below, and their sizes in bytes; none if there is no such folder.

        Names that lead elsewhere (object stores take `..` for a name) are left out.
        """
        with self._answering() as (filesystem, path):
            selector = pa.fs.FileSelector(path, recursive=True, allow_not_found=True)
            infos = filesystem.get_file_info(selector)
            files = (info for info in infos if info.type == pa.fs.FileType.File)
            sizes = {str(info.path)[len(path) + 1 :]: int(info.size) for info in files}
            return {name: size for name, size in sizes.items() if is_inside(name)}

    def read(self, name: str) -> bytes:
        """What a small file holds. Raises: FileNotFoundError, too."""
        with (
            self._answering() as (filesystem, path),
            filesystem.open_input_stream(f"{path}/{name}") as stream,
        ):
            return bytes(stream.read())

    def write(self, name: str, content: bytes) -> None:
        """Writes a small file, whole or not at all."""
        with self._answering() as (filesystem, path):
            if isinstance(filesystem, pa.fs.LocalFileSystem):
                filesystem.create_dir(f"{path}/{name}".rpartition("/")[0], recursive=True)
            write_whole(filesystem, f"{path}/{name}", content)

    def remove(self, name: str) -> None:
        """Removes a file; nothing happens if it is not there."""
        with self._answering() as (filesystem, path):
            if filesystem.get_file_info(f"{path}/{name}").type == pa.fs.FileType.File:
                filesystem.delete_file(f"{path}/{name}")

    def clear(self) -> None:
        """Removes the folder, and all that is in it."""
        with self._answering() as (filesystem, path):
            filesystem.delete_dir(path)

    def upload(self, folder: Path, *, last: str) -> None:
        """Copies the files of a folder of this machine here, one of them when all others are there.

        Args:
          last: its name: whoever finds it finds all.
        """
        names = [file.name for file in folder.iterdir() if file.name != last]
        with self._answering() as (filesystem, path):
            if isinstance(filesystem, pa.fs.LocalFileSystem):
                filesystem.create_dir(path, recursive=True)

        def send(name: str) -> None:
            with self._answering() as (filesystem, path):
                source = str(folder / name)
                pa.fs.copy_files(source, f"{path}/{name}", destination_filesystem=filesystem)

        _each(send, names)
        send(last)

    def download(self, names: Iterable[str], folder: Path) -> None:
        """Copies files from here into a folder of this machine."""

        def fetch(name: str) -> None:
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            fresh = file.with_name(f"{file.name}.part")
            with self._answering() as (filesystem, path):
                pa.fs.copy_files(f"{path}/{name}", str(fresh), source_filesystem=filesystem)
            fresh.replace(file)

        _each(fetch, list(names))

    @contextmanager
    def _answering(self) -> Iterator[tuple[pa.fs.FileSystem, str]]:
        try:
            yield _opened(self.uri)
        except (FileNotFoundError, StorageError):
            raise
        except OSError as error:
            raise StorageError(
                f"The storage {self.shown} does not answer, or refuses ({first_line(error)})."
            ) from error


@cache
def _opened(uri: str) -> tuple[pa.fs.FileSystem, str]:
    """The file system and the path there, once a process: S3 is asked for a bucket's region."""
    return locate(uri)


def is_inside(name: str) -> bool:
    """Whether a name of a file is one below its folder, on any system."""
    return "\\" not in name and not {"", ".", ".."} & set(name.split("/"))


def _each(do: Callable[[str], None], names: list[str]) -> None:
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for _ in pool.map(do, names):
            pass
