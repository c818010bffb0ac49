"""One small file that several processes contend for: made if absent, replaced if unchanged."""

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from bt_ray.data.location import locate
from bt_ray.errors import StorageError
from bt_ray.storage.store import Store

_SETTLED_S = 1.0
"""So long after two wrote at once, both see who was last."""


@dataclass(frozen=True)
class Entry:
    """What the file held when it was read, and what tells whether it is still the same."""

    content: bytes
    version: Any = None
    """An object's ETag and generation; a file's content says enough."""


class Cell(Protocol):
    """The file. Every method raises StorageError if the storage does not answer, or refuses."""

    def read(self) -> Entry | None:
        """What it holds; None if it is not there."""

    def create(self, content: bytes) -> Entry | None:
        """Makes it; None if it is there already."""

    def replace(self, content: bytes, seen: Entry) -> Entry | None:
        """Overwrites it; None if it is not as it was seen."""

    def take(self, content: bytes, seen: Entry) -> Entry | None:
        """The same where others may try, too: one of them gets it, the others None."""

    def remove(self) -> None:
        """Removes it; nothing happens if it is not there."""


class LookedAtCell:
    """A file of a storage that writes on no conditions.

    Who wants it writes and looks again a moment later: of two, who was last has it.
    """

    def __init__(self, store: Store, name: str) -> None:
        self._store, self._name = store, name

    def read(self) -> Entry | None:
        """What it holds; None if it is not there."""
        try:
            return Entry(self._store.read(self._name))
        except FileNotFoundError:
            return None

    def create(self, content: bytes) -> Entry | None:
        """Makes it; None if it is there already, or another wrote it, too."""
        if self.read() is not None:
            return None
        self._write(content)
        return self._settled(content)

    def replace(self, content: bytes, seen: Entry) -> Entry | None:
        """Overwrites it; None if it was not as it was seen a moment before."""
        if self.read() != seen:
            return None
        self._write(content)
        return Entry(content)

    def take(self, content: bytes, seen: Entry) -> Entry | None:
        """The same; None, too, if another wrote it a moment later."""
        return self._settled(content) if self.replace(content, seen) else None

    def remove(self) -> None:
        """Removes it; nothing happens if it is not there."""
        self._store.remove(self._name)

    def _write(self, content: bytes) -> None:
        self._store.write(self._name, content)

    def _settled(self, content: bytes) -> Entry | None:
        time.sleep(_SETTLED_S)
        return Entry(content) if self.read() == Entry(content) else None


class FileCell(LookedAtCell):
    """A file of a file system: made exclusively, for which no locks are needed.

    It is replaced by renaming, and a file system knows no "rename if unchanged".
    """

    def __init__(self, store: Store, name: str) -> None:
        super().__init__(store, name)
        self._file = Path(locate(store.uri)[1]) / name

    def create(self, content: bytes) -> Entry | None:
        """Makes it; None if it is there already."""
        with self._answering():
            self._file.parent.mkdir(parents=True, exist_ok=True)
            try:
                stream = self._file.open("xb")
            except FileExistsError:
                return None
            with _removed_on_error(self._file), stream:
                stream.write(content)
            return Entry(content)

    def _write(self, content: bytes) -> None:
        fresh = self._file.with_name(f".{self._name}.{secrets.token_hex(4)}")
        with self._answering(), _removed_on_error(fresh):
            fresh.write_bytes(content)
            fresh.replace(self._file)

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(
                f"{self._file} cannot be written ({error.strerror}); see to its folder."
            ) from error


@contextmanager
def _removed_on_error(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError:
        with suppress(OSError):
            file.unlink(missing_ok=True)
        raise
