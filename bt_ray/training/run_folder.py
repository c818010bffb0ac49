"""Where a run is kept, and whether it may be kept there."""

import json
import logging
import os
import signal
import tempfile
import threading
import uuid
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import filelock

from bt_ray.checkpoints.checkpoint import check_origin, newest_checkpoint
from bt_ray.config import SETTINGS_FILE, Settings, read_settings, to_json
from bt_ray.data.lock import held, marker_of
from bt_ray.errors import DataError, LaunchError, SettingsError, StorageError
from bt_ray.json_files import write_json
from bt_ray.model.published import is_place
from bt_ray.storage.claim import Claim, claimed
from bt_ray.storage.mirror import Mirror, copied
from bt_ray.storage.names import absolute, is_far, origin_of
from bt_ray.storage.store import Store
from bt_ray.training.first_weights import find_first_weights, settle_start
from bt_ray.training.identity import changes, record_content, recorded_content

_log = logging.getLogger(__name__)
_LOOK_EVERY_S = 1.0


def locate_storage(settings: Settings) -> Settings:
    """The settings with absolute paths, or URIs, in `storage` and `model.start_from`.

    What is published or registered keeps its name there.
    """
    model = settings.model
    if model.start_from is not None and is_place(model.start_from):
        model = replace(model, start_from=absolute(model.start_from))
    return replace(settings, storage=absolute(settings.storage), model=model)


def nearest_folder(path: Path) -> Path:
    """`path`, or what exists of the way to it."""
    return next(place for place in (path, *path.parents) if place.exists())


def check_storage(settings: Settings) -> None:
    """Raises SettingsError unless the located storage is, or can become, a folder to write to.

    Of a far one nothing is asked yet.
    """
    if is_far(settings.storage):
        return
    place = nearest_folder(Path(settings.storage))
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        fault = "may not be written to" if place.is_dir() else "is no folder"
        raise SettingsError(
            f"storage={settings.storage} must be a folder that can be written to; {place} {fault}. "
            "Give another --storage."
        )


def open_storage(settings: Settings) -> None:
    """Makes the located storage if need be, and sees that files can be made in it.

    Raises: SettingsError, StorageError.
    """
    if is_far(settings.storage):
        _open_far(settings.storage)
        return
    try:
        Path(settings.storage).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=settings.storage) as file:
            file.write(b"a few bytes")
    except OSError as error:
        raise SettingsError(
            f"storage={settings.storage} must be a folder that can be written to "
            f"({error.strerror}). Give another --storage."
        ) from error


def _open_far(storage: str) -> None:
    """Writes and removes a small file."""
    store, name = Store(storage), f"probe-{uuid.uuid4().hex}"
    try:
        store.write(name, b"a few bytes")
        store.remove(name)
    except (DataError, StorageError) as error:
        raise SettingsError(
            f"storage={store.shown} must be a place that can be written to: {error} Its keys are "
            "taken from the environment (for S3 AWS_ACCESS_KEY_ID and the like), on every node."
        ) from error


@contextmanager
def sole_owner(run_folder: Path, what: str = "run", but: Collection[str] = ()) -> Iterator[None]:
    """Holds the run's folder; the lock goes with the process, however that ends.

    Of a far storage a claim is held there, too, and what changes in the folder is copied to it.

    Args:
      what: people call it.
      but: folders in it that others copy.

    Raises: LaunchError if another process holds it; StorageError.
    """
    run_folder.mkdir(parents=True, exist_ok=True)
    lock = run_folder / ".lock"
    try:
        with ExitStack() as stack:
            stack.enter_context(held(lock, timeout_s=0))
            if (origin := origin_of(run_folder)) is not None:
                claim = stack.enter_context(claimed(origin.uri, what))
                mirror = stack.enter_context(copied(run_folder, but))
                stack.enter_context(_giving_up(claim, mirror))
            yield
    except filelock.Timeout as busy:
        marker = marker_of(lock)
        gone = f" If it is gone, killed on another machine, remove {marker}." * marker.exists()
        raise LaunchError(
            f"The {what} {run_folder.name!r} in {run_folder.parent} is going already; wait for it, "
            f"stop it, or give this one another --name.{gone}"
        ) from busy


@contextmanager
def _giving_up(claim: Claim, mirror: Mirror | None) -> Iterator[None]:
    """Ends this process's work, as a signal would, once another one has the claim."""
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(_LOOK_EVERY_S):
            if claim.lost.is_set() and mirror is not None:
                mirror.is_mine = False  # what it would copy is another's now
                os.kill(os.getpid(), signal.SIGTERM)
                return

    threading.Thread(target=watch, name="claim-watch", daemon=True).start()
    try:
        yield
    finally:
        is_over.set()


def claim_folder(run_folder: Path, settings: Settings) -> Settings:
    """Writes the run's settings and its first weights, once the folder is known to be this run's.

    Workers and tracking may differ between two goes at one run, and so may the places of its
    images and its storage; what shapes the result may not.

    Returns: the settings, with the sum of the first weights.
    Raises: SettingsError, CheckpointError; what `first_weights.settle_start` raises.
    """
    _check_identity(run_folder, settings)
    settings = settle_start(settings)
    record_content(run_folder, settings)
    write_json(run_folder / SETTINGS_FILE, json.loads(to_json(settings)))
    return settings


def check_claim(run_folder: Path, settings: Settings) -> None:
    """Raises SettingsError or CheckpointError where the run's folder belongs to another run.

    So it does if it has not begun, and its first weights cannot be had, or do not fit.
    """
    if not _check_identity(run_folder, settings) and settings.model.start_from is not None:
        find_first_weights(settings)


def _check_identity(run_folder: Path, settings: Settings) -> bool:
    """Whether the run has a checkpoint already. Raises: SettingsError, CheckpointError."""
    theirs = _earlier_settings(run_folder)
    changed = [] if theirs is None else changes(settings, theirs, recorded_content(run_folder))
    if changed:
        raise SettingsError(
            f"There is a run {settings.name!r} in {run_folder.parent} with other settings "
            f"({', '.join(changed)}); give this one another --name, or repeat those settings to "
            "continue it."
        )
    checkpoint, _ = newest_checkpoint(run_folder)
    if checkpoint is not None:
        check_origin(checkpoint, settings)
    return checkpoint is not None


def _earlier_settings(run_folder: Path) -> Settings | None:
    """The settings of the go before; none without one, or if their file was emptied or cut short.

    A full disk may do that. The run's checkpoints, if there are any, tell the same.
    """
    file = run_folder / SETTINGS_FILE
    if not file.is_file():
        return None
    text = file.read_text(errors="replace")
    try:
        json.loads(text)
    except ValueError:
        _log.warning("%s is empty or was cut short; it is written anew.", file)
        return None
    return read_settings(file)
