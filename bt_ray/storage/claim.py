"""Who may write into a folder of a storage: one process, as long as its heartbeat is seen.

The claim is the object `claim.json` in the folder, made if absent. Its holder raises a counter in
it. Another process looks whether the counter changes, by a clock of its own that only counts how
long it looked: what the clocks of two machines say is never compared. A claim that stands still for
`free_after_s` was left by a process that is gone, and is taken over.
"""

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

from bt_ray.data.location import is_local, public_name
from bt_ray.errors import LaunchError, StorageError
from bt_ray.storage.cell import Cell, Entry, FileCell, LookedAtCell
from bt_ray.storage.object_cell import ObjectCell, why_unconditional
from bt_ray.storage.object_store import SCHEMES, build_object_store
from bt_ray.storage.store import Store

_log = logging.getLogger(__name__)

CLAIM_FILE = "claim.json"
_LOOK_S = 1.0
_TRY_AGAIN_S = 1.0
_LAST_BEAT_S = 15.0


@dataclass(frozen=True)
class Holder:
    """Who holds a folder, as the claim says it."""

    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    since: str = field(default_factory=lambda: f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC")
    """For people to read; by the holder's clock, however wrong."""

    def claim(self, count: int) -> bytes:
        """What the claim holds after so many heartbeats."""
        return json.dumps({**asdict(self), "count": count}).encode()

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since} by that machine's clock"


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
        """Raises LaunchError if the claim was lost."""
        if self.lost.is_set():
            raise LaunchError(self._loss)

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
            entry = self._cell.read() or self._cell.create(content)
            if entry is not None and _holder_of(entry).id != self._holder.id:
                self.lost.set()
                _log.error("%s", self._loss)
        self._entry = entry or self._entry

    def _release(self) -> None:
        try:
            entry = self._cell.read()
            if entry is not None and _holder_of(entry).id == self._holder.id:
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
    shown, holder, cell = public_name(uri), Holder(), _open_cell(uri)
    entry = _wait_for(cell, holder, what, shown, beat_s, free_after_s)
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
        elif _holder_of(found).id == mine.id:  # made, though the answer was lost
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
        f"The {what} in {shown} was claimed by {_holder_of(found)}. If no heartbeat is seen for "
        f"{free_after_s:.0f} s, that process is gone and this one goes on."
    )


def _refusal(found: Entry, shown: str, what: str) -> str:
    folder, _, name = shown.rstrip("/").rpartition("/")
    return (
        f"The {what} {name!r} in {folder} is going already: {_holder_of(found)}. Wait for it, "
        "stop it, or give this one another --name."
    )


def _holder_of(entry: Entry) -> Holder:
    """Who made a claim; one of nobody if it was cut short."""
    try:
        told = json.loads(entry.content)
        return Holder(told["id"], told["host"], told["pid"], told["since"])
    except (ValueError, KeyError, TypeError):
        return Holder("", "an unknown machine", 0, "an unknown time")


def _open_cell(uri: str) -> Cell:
    """The claim's object or file, with what its storage can do."""
    if is_local(uri):
        return FileCell(Store(uri), CLAIM_FILE)
    reason: str | None = "it is neither S3 nor Google Cloud Storage"
    if uri.partition("://")[0] in SCHEMES:
        store = build_object_store(uri)
        reason = why_unconditional(store)
        if reason is None:
            return ObjectCell(store, CLAIM_FILE, public_name(uri))
    cell = LookedAtCell(Store(uri), CLAIM_FILE)
    cell.read()  # it may be that the storage does not answer at all
    _log.warning(
        "The storage %s does not write on conditions (%s): who may write there is found by looking "
        "twice. Of two that start within the same second both may begin; one of them stops soon.",
        public_name(uri), reason,
    )  # fmt: skip
    return cell
