"""An object that several processes contend for, in a store that writes on conditions."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import GCSStore, S3Store

from bt_ray.data.location import first_line
from bt_ray.errors import StorageError
from bt_ray.storage.cell import Entry

if TYPE_CHECKING:
    from obstore import PutResult, UpdateVersion


class ObjectCell:
    """The object; whether it is there, and unchanged, is for its store to judge."""

    def __init__(self, store: S3Store | GCSStore, name: str, shown: str) -> None:
        self._store, self._name, self._shown = store, name, shown

    def read(self) -> Entry | None:
        """What it holds; None if it is not there."""
        with self._answering():
            try:
                found = obstore.get(self._store, self._name)
                return Entry(bytes(found.bytes()), (found.meta["e_tag"], found.meta["version"]))
            except FileNotFoundError:
                return None

    def create(self, content: bytes) -> Entry | None:
        """Makes it; None if it is there already."""
        with self._answering():
            try:
                done = obstore.put(self._store, self._name, content, mode="create")
            except AlreadyExistsError:
                return None
            return _entry(content, done)

    def replace(self, content: bytes, seen: Entry) -> Entry | None:
        """Overwrites it; None if it is not as it was seen."""
        with self._answering():
            try:
                done = obstore.put(self._store, self._name, content, mode=_if_still(seen))
            except (PreconditionError, FileNotFoundError):
                return None
            return _entry(content, done)

    def take(self, content: bytes, seen: Entry) -> Entry | None:
        """The same; of several that try, one gets it."""
        return self.replace(content, seen)

    def remove(self) -> None:
        """Removes it; nothing happens if it is not there."""
        with self._answering(), suppress(FileNotFoundError):
            obstore.delete(self._store, self._name)

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except (BaseError, OSError, ValueError) as error:
            raise StorageError(
                f"The storage {self._shown} does not answer, or refuses ({first_line(error)})."
            ) from error


def why_unconditional(store: S3Store | GCSStore) -> str | None:
    """Why a store cannot be relied on to refuse; None if it was seen to."""
    cell = ObjectCell(store, f"claim.probe-{secrets.token_hex(8)}", "")
    try:
        made = cell.create(b"first")
        if made is None or cell.create(b"second") is not None:
            return "it overwrites what was to be made only if absent"
        if cell.replace(b"third", made) is None:
            return "it refuses to overwrite what is unchanged"
        if cell.replace(b"fourth", made) is not None:
            return "it overwrites what has changed meanwhile"
    except StorageError as error:
        cause = error.__cause__
        return first_line(cause if isinstance(cause, Exception) else error)
    finally:
        with suppress(StorageError):
            cell.remove()
    return None


def _entry(content: bytes, done: "PutResult") -> Entry:
    return Entry(content, (done["e_tag"], done["version"]))


def _if_still(seen: Entry) -> "UpdateVersion":
    e_tag, version = seen.version
    still: UpdateVersion = {}
    if e_tag:
        still["e_tag"] = e_tag
    if version:
        still["version"] = version
    return still
