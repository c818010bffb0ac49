"""Copies of what lies in a far storage, in a folder of this machine where it is worked on.

A run is kept in a folder. If the storage is a URI, that folder is a copy below the temporary folder
of this machine: it begins as what the storage holds, and what changes in it is copied back, by the
one process that has claimed the run. Checkpoints and shards are not: they go to the storage at once
and come from there when they are needed.
"""

import contextlib
import hashlib
import json
import logging
import os
import sqlite3
import tempfile
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from bt_ray.data.lock import held
from bt_ray.errors import SettingsError, StorageError
from bt_ray.redaction import without_credentials
from bt_ray.storage.store import Store

_log = logging.getLogger(__name__)
_EVERY_S, _LONGEST_SHARE = 5.0, 0.1
"""Seconds between two copies; the share of the time that copying may take."""
_PATIENCE_S, _PAUSE_S = 600.0, 5.0
"""How long a storage that is away is waited for at the end, and between two tries."""
_KEPT_HERE = (".lock", ".held", ".new", ".part", "-wal", "-shm", "-journal")
"""Endings of files that mean nothing elsewhere, or are not whole yet."""
CHECKPOINT = "checkpoint_"
"""How names of checkpoints begin."""
_GOES_ITSELF = (CHECKPOINT, "shards", "train")
"""How names of folders begin that are not copied; Ray Train keeps notes of its own in `train`."""

_ORIGINS: dict[Path, Store] = {}
"""Of this process: the storage that each copied folder stands for."""


def is_far(storage: str) -> bool:
    """Whether a storage is no folder of this machine, but a URI of another kind."""
    return "://" in storage and not storage.startswith("file://")


def absolute(storage: str) -> str:
    """A path from the root on, or a URI without a last slash; `file://` is a path."""
    if is_far(storage):
        place, mark, options = storage.partition("?")
        return f"{place.rstrip('/')}{mark}{options}"
    return str(Path(storage.removeprefix("file://")).expanduser().resolve())


def below(storage: str, name: str) -> str:
    """The folder of this name in a storage, a path or a URI."""
    return Store(storage).below(name).uri


def folder_of(storage: str) -> Path:
    """Where this process works on what a storage holds: the folder itself, or that of copies.

    Raises: SettingsError if the temporary folder is not to be trusted.
    """
    if not is_far(storage):
        return Path(storage)
    name = hashlib.sha256(without_credentials(storage).encode()).hexdigest()[:16]
    mine = Path(tempfile.gettempdir()).resolve() / f"bt_ray-{os.getuid()}"
    mine.mkdir(mode=0o700, exist_ok=True)
    if mine.is_symlink() or mine.stat().st_uid != os.getuid():
        raise SettingsError(f"{mine} belongs to somebody else; set TMPDIR to another folder.")
    _ORIGINS[mine / name] = Store(storage)
    return mine / name


def origin_of(place: Path) -> Store | None:
    """The folder in a far storage that a folder here is a copy of; none if it is none."""
    for root, store in _ORIGINS.items():
        if place.is_relative_to(root):
            return store.below(place.relative_to(root).as_posix().removeprefix("."))
    return None


def name_of(place: Path) -> str:
    """How a person names a folder or file: its path or, of a copy, the URI of the original."""
    origin = origin_of(place)
    return str(place) if origin is None else without_credentials(origin.uri)


def place_of(name: str) -> Path:
    """The folder that a path or a URI names, the latter as a copy that is up to date.

    Raises: StorageError.
    """
    if not is_far(name):
        return Path(name.removeprefix("file://")).expanduser().resolve()
    place, mark, options = name.partition("?")
    inside = Path()
    if place.rpartition("/")[2].startswith(CHECKPOINT):  # of the run two folders above it
        place, *parts = place.rsplit("/", 2)
        inside = Path(*parts)
    folder = folder_of(f"{place}{mark}{options}")
    pull(folder)
    return folder / inside


def read_far_json(folder: str, name: str) -> dict[str, Any] | None:
    """The object in a file of a far folder; none if there is none. Raises: StorageError."""
    try:
        tree = json.loads(Store(folder).read(name))
    except (FileNotFoundError, ValueError):
        return None
    return tree if isinstance(tree, dict) else None


def pull(folder: Path, but: Collection[str] = ()) -> None:
    """Makes a copy what its original is, without checkpoints and shards; nothing if it is none.

    Args:
      but: names of folders in it that are left out.
    Raises: StorageError.
    """
    origin = origin_of(folder)
    if origin is None:
        return
    wanted = {name for name in origin.sizes() if _is_copied(name, but)}
    folder.mkdir(parents=True, exist_ok=True)
    for name in _files(folder, but):
        if name not in wanted:
            (folder / name).unlink(missing_ok=True)
    origin.download(wanted, folder)


def bring(folder: Path) -> None:
    """Has all files of one folder of a copy here; nothing if it is none. Raises: StorageError."""
    origin = origin_of(folder)
    if origin is not None:
        folder.mkdir(parents=True, exist_ok=True)
        with held(folder / "copying.lock"):
            there = origin.sizes()
            sizes = {name: _size(folder / name) for name in there}
            origin.download([name for name in there if sizes[name] != there[name]], folder)


def send(file: Path) -> None:
    """Copies one file to where it belongs, if it is in a copied folder. Raises: StorageError."""
    origin = origin_of(file.parent)
    if origin is not None:
        origin.write(file.name, _content(file))


class Mirror:
    """Copies what changes in a folder to its original, while its context lasts and at the end.

    Args:
      but: names of folders in it that others copy.
    """

    def __init__(self, folder: Path, origin: Store, but: Collection[str] = ()) -> None:
        self._folder, self._origin, self._but = folder, origin, but
        self._sent = self._marks()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._send_always, name="mirror", daemon=True)
        self.is_mine = True
        """Whether this process may write there still."""

    def __enter__(self) -> "Mirror":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._is_over.set()
        self._thread.join()
        give_up = time.monotonic() + _PATIENCE_S
        while self.is_mine:
            try:
                self.send_changes()
                return
            except StorageError as away:
                if time.monotonic() > give_up:
                    if kind is None:
                        raise StorageError(
                            f"{away} What is not there yet is kept in {self._folder}."
                        ) from away
                    return
                _log.warning("%s Trying again.", away)
                time.sleep(_PAUSE_S)

    def send_changes(self) -> None:
        """Copies what changed since the last time. Raises: StorageError."""
        marks = self._marks()
        for name, mark in marks.items():
            if self._sent.get(name) != mark:
                with contextlib.suppress(FileNotFoundError):  # it was removed just now
                    self._origin.write(name, _content(self._folder / name))
                    self._sent[name] = mark
        for name in self._sent.keys() - marks.keys():
            self._origin.remove(name)
            del self._sent[name]

    def _send_always(self) -> None:
        pause = _EVERY_S
        while self.is_mine and not self._is_over.wait(pause):
            began = time.monotonic()
            try:
                self.send_changes()
            except StorageError as away:
                _log.warning("%s Trying again.", away)
            pause = max(_EVERY_S, (time.monotonic() - began) / _LONGEST_SHARE)

    def _marks(self) -> dict[str, tuple[int, int]]:
        """Time and size of each file, by name."""
        marks = {}
        for name in _files(self._folder, self._but):
            with contextlib.suppress(FileNotFoundError):
                found = (self._folder / name).stat()
                marks[name] = found.st_mtime_ns, found.st_size
        return marks


@contextmanager
def copied(folder: Path, but: Collection[str] = ()) -> Iterator[Mirror | None]:
    """A folder that is up to date, and whose changes are copied back; as it is if it is no copy.

    Raises: StorageError.
    """
    origin = origin_of(folder)
    if origin is None:
        yield None
        return
    pull(folder, but)
    with Mirror(folder, origin, but) as mirror:
        yield mirror


def _files(folder: Path, but: Collection[str]) -> list[str]:
    """Names of the files that are copied, relative to the folder."""
    found = []
    for place, folders, files in os.walk(folder):
        inside = Path(place).relative_to(folder)
        folders[:] = [name for name in folders if _is_copied(f"{inside / name}/x", but)]
        found += [(inside / file).as_posix() for file in files]
    return [name for name in found if _is_copied(name, but)]


def _is_copied(name: str, but: Collection[str]) -> bool:
    *folders, file = name.split("/")
    goes_itself = any(part.startswith(_GOES_ITSELF) for part in folders)
    is_other = bool(folders) and folders[0] in but
    return not (goes_itself or is_other or file.endswith(_KEPT_HERE) or file == "claim.json")


def _size(file: Path) -> int | None:
    return file.stat().st_size if file.is_file() else None


def _content(file: Path) -> bytes:
    """What a file holds; of a database that is written to, as it was at one moment."""
    if file.suffix != ".db":
        return file.read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / file.name
        with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
        return copy.read_bytes()
