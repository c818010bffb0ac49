"""What changes in a copy of a far folder is copied back, by the one process that has claimed it."""

import contextlib
import logging
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from bt_ray.errors import StorageError
from bt_ray.storage.names import origin_of
from bt_ray.storage.store import Store
from bt_ray.storage.working_copy import content_of, copied_files, pull

_log = logging.getLogger(__name__)
_EVERY_S, _LONGEST_SHARE = 5.0, 0.1
"""Seconds between two copies; the share of the time that copying may take."""
_PATIENCE_S, _PAUSE_S = 600.0, 5.0
"""How long a storage that is away is waited for at the end, and between two tries."""


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
                    self._origin.write(name, content_of(self._folder / name))
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
        for name in copied_files(self._folder, self._but):
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
