"""Reads images that are byte ranges of larger files."""

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.fs

from bt_ray.data.location import locate
from bt_ray.data.sources.fetch import fetch


@dataclass(frozen=True)
class Ranges:
    """Reads byte ranges; the index has `archive` (a number), `offset` and `size` in bytes."""

    root: str
    """Any path or URI of the archives' file system."""
    archives: tuple[str, ...]

    def read(self, entries: pa.Table) -> Iterator[bytes]:
        """The images; from an object store, several are read at the same time."""
        filesystem, _ = locate(self.root)
        numbers = entries["archive"].unique().to_pylist()
        files = {n: filesystem.open_input_file(self.archives[n]) for n in numbers}
        columns = (entries[name].to_pylist() for name in ("archive", "offset", "size"))
        places = zip(*columns, strict=True)

        def content(place: tuple[int, int, int]) -> bytes:
            archive, offset, size = place
            read: bytes = files[archive].read_at(size, offset)
            if len(read) < size:
                raise OSError(f"{self.archives[archive]} has become shorter")
            return read

        try:
            if isinstance(filesystem, pa.fs.LocalFileSystem):
                yield from map(content, places)
            else:
                yield from fetch(content, places)
        finally:
            for file in files.values():
                file.close()
