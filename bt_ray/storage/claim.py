"""Who may write into a folder of a storage: one process, as long as its heartbeat is seen.

The claim is the object `claim.json` in the folder, made if absent. Its holder raises a counter in
it. Another process looks whether the counter changes, by a clock of its own that only counts how
long it looked: what the clocks of two machines say is never compared. A claim that stands still for
`free_after_s` was left by a process that is gone, and is taken over.
"""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from bt_ray.data.location import is_local, public_name
from bt_ray.errors import LaunchError, RunFailedError, StorageError
from bt_ray.storage.cell import Cell, Entry, FileCell, LookedAtCell
from bt_ray.storage.holder import Holder, holder_of
from bt_ray.storage.object_cell import ObjectCell, why_unconditional
from bt_ray.storage.object_store import SCHEMES, build_object_store
from bt_ray.storage.store import Store

_log = logging.getLogger(__name__)

CLAIM_FILE = "claim.json"
_LOOK_S = 1.0
_TRY_AGAIN_S = 1.0
_LAST_BEAT_S = 15.0


class Claim:
    """The right to write into a folder; `lost` is set once another process has taken it."""

    def __init__(self, cell: Cell, holder: Holder, entry: Entry, shown: str) -> None:
        self.lost = threading.Event()
        """Whether another process has taken the claim: this one must write no more."""
        self._cell, self._holder, self._entry, self._shown = cell, holder, entry, shown
        self._count = 0
        self._is_away = False
        self._is_over = threading.Event()

    def check(self) -> None:
        """Looks whether the claim is still this process's, as before a commit.

        Raises: RunFailedError if another has taken it, StorageError if the storage does not answer.
        """
        entry = None if self.lost.is_set() else self._cell.read()
        if entry is not None and not self._is_mine(entry):
            self._lose()
        if self.lost.is_set():
            raise RunFailedError(self._loss)

    def _is_mine(self, entry: Entry) -> bool:
        return holder_of(entry).id == self._holder.id

    def _lose(self) -> None:
        if not self.lost.is_set():
            self.lost.set()
            _log.error("%s", self._loss)

    @property
    def _loss(self) -> str:
        return (
            f"Another process took {self._shown} over while this one ({self._holder}) could not be "
            "seen to live: was it suspended, or cut off from its storage? This one must stop; "
            "the other goes on from the newest checkpoint."
        )

    @contextmanager
    def _beating(self, beat_s: float) -> Iterator[None]:
        thread = threading.Thread(target=self._beat, args=(beat_s,), name="claim", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._is_over.set()
            thread.join(_LAST_BEAT_S)
            self._release()

    def _beat(self, beat_s: float) -> None:
        pause_s = beat_s
        while not self._is_over.wait(pause_s) and not self.lost.is_set():
            try:
                self._raise_counter()
                self._is_away, pause_s = False, beat_s
            except StorageError as error:
                if not self._is_away:
                    _log.warning("The claim on %s is tried again: %s", self._shown, error)
                self._is_away, pause_s = True, min(beat_s, _TRY_AGAIN_S)

    def _raise_counter(self) -> None:
        self._count += 1
        content = self._holder.claim(self._count)
        entry = self._cell.replace(content, self._entry)
        if entry is None:  # taken, removed, or ours, where the answer to a beat was lost
            entry = self._cell.read()
            if entry is None and not self._is_over.is_set():
                entry = self._cell.create(content)
            if entry is not None and not self._is_mine(entry):
                self._lose()
        self._entry = entry or self._entry

    def _release(self) -> None:
        try:
            entry = self._cell.read()
            if entry is not None and self._is_mine(entry):
                self._cell.remove()
        except StorageError as error:
            _log.warning("The claim on %s stays, and is free soon: %s", self._shown, error)


@contextmanager
def claimed(
    uri: str, what: str = "run", *, beat_s: float = 10.0, free_after_s: float = 45.0
) -> Iterator[Claim]:
    """Holds the folder at `uri` while the context lasts.

    Args:
      uri: of a Store; a path, too.
      what: people call it.
      beat_s: seconds between heartbeats, the same for all who claim the folder.
      free_after_s: a claim whose heartbeat is not seen for so long is taken over; several `beat_s`.

    Raises: LaunchError if another process holds it, StorageError if the storage does not answer.
    """
    shown, holder = public_name(uri), Holder()
    cell, weakness = _open_cell(uri)
    entry = _wait_for(cell, holder, what, shown, beat_s, free_after_s)
    if weakness is not None:
        _log.warning(
            "The storage %s does not write on conditions (%s): of two runs that start within the "
            "same second both may begin, and one of them stops at its next heartbeat.",
            shown, weakness,
        )  # fmt: skip
    claim = Claim(cell, holder, entry, shown)
    with claim._beating(beat_s):
        yield claim


def _wait_for(
    cell: Cell, mine: Holder, what: str, shown: str, beat_s: float, free_after_s: float
) -> Entry:
    """The claim, once it is ours."""
    content = mine.claim(0)
    seen: Entry | None = None
    since = answered = time.monotonic()
    while True:
        try:
            found = cell.read()
            answered = time.monotonic()
        except StorageError:
            if seen is None or time.monotonic() - answered > free_after_s:
                raise
            found, since = seen, time.monotonic()  # the holder may be cut off, too: count anew
        entry = None
        if found is None:
            entry = cell.create(content)
        elif holder_of(found).id == mine.id:  # made, though the answer was lost
            entry = found
        elif seen is None:
            seen, since = found, time.monotonic()
            _log.warning("%s", _waiting(found, shown, what, free_after_s))
        elif found != seen:
            raise LaunchError(_refusal(found, shown, what))
        elif time.monotonic() - since >= free_after_s:
            entry = cell.take(content, found)
        if entry is not None:
            return entry
        time.sleep(min(_LOOK_S, beat_s))


def _waiting(found: Entry, shown: str, what: str, free_after_s: float) -> str:
    return (
        f"The {what} in {shown} was claimed by {holder_of(found)}. If no heartbeat is seen for "
        f"{free_after_s:.0f} s, that process is gone and this one goes on."
    )


def _refusal(found: Entry, shown: str, what: str) -> str:
    folder, _, name = shown.rstrip("/").rpartition("/")
    return (
        f"The {what} {name!r} in {folder} is going already: {holder_of(found)}. Wait for it, "
        "stop it, or give this one another --name."
    )


def _open_cell(uri: str) -> tuple[Cell, str | None]:
    """The claim's object or file, and why its storage cannot tell who was first, if it cannot."""
    folder = Store(uri)
    if is_local(uri):
        return FileCell(folder, CLAIM_FILE), None
    if uri.partition("://")[0] not in SCHEMES:
        return LookedAtCell(folder, CLAIM_FILE), "it is neither S3 nor Google Cloud Storage"
    store = build_object_store(uri)
    reason = why_unconditional(store)
    if reason is not None:
        return LookedAtCell(folder, CLAIM_FILE), reason
    return ObjectCell(store, CLAIM_FILE, folder.shown), None
