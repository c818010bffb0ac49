"""A checkpoint's way from a worker's disk to the run's storage, in a thread of Ray Train's."""

import logging
import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import TypeVar

import ray.train

from bt_ray.checkpoints.best import keep_if_best
from bt_ray.checkpoints.manifest import MANIFEST
from bt_ray.data.location import first_line, refusal, write_whole
from bt_ray.errors import RunFailedError, StorageError
from bt_ray.storage.store import Store
from bt_ray.training.recorder import Recorder

T = TypeVar("T")

_log = logging.getLogger(__name__)
_PATIENCE_S, _PAUSE_S = 600.0, 5.0
"""How long a storage that is away is waited for, and between two tries."""


def upload(
    folder: Path,
    write: Callable[[Path], None],
    recorder: Recorder,
    run: Store | None,
    tell: Callable[[], None],
    kept: Future[None],
    checkpoint: ray.train.Checkpoint,
    name: str,
) -> ray.train.Checkpoint:
    """The checkpoint in the run's storage, under this name, once it is written and copied there.

    Ray Train may try again after an error of the storage.

    Args:
      folder: of this machine, which `write` fills with the checkpoint; it is removed at the end.
      run: the run's folder in its storage, if its best checkpoint is kept there.
      tell: called when the checkpoint is kept; then `kept` is done.
    """
    try:
        write(folder)
        recorder.send_measures()
        if run is not None:
            _wait_for_storage(partial(keep_if_best, run, folder))
        stored = _persist(folder, checkpoint, name)
    except RunFailedError as error:  # of a disk that refuses
        recorder.fail(error)  # Ray Train ends this worker, and would begin anew
        kept.set_exception(error)
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    tell()
    kept.set_result(None)
    return stored


def _persist(folder: Path, checkpoint: ray.train.Checkpoint, name: str) -> ray.train.Checkpoint:
    """Copies the folder's files to the storage, the manifest last; waits while it is away.

    Raises: StorageRefusedError; OSError if it is away for too long.
    """
    storage = ray.train.get_context().get_storage()
    manifest = folder / MANIFEST
    content = manifest.read_bytes()

    def persist() -> ray.train.Checkpoint:
        manifest.unlink(missing_ok=True)
        stored: ray.train.Checkpoint = storage.persist_current_checkpoint(checkpoint, name)
        write_whole(stored.filesystem, f"{stored.path}/{MANIFEST}", content)
        return stored

    return _wait_for_storage(persist)


def _wait_for_storage(job: Callable[[], T]) -> T:
    """What `job` returns; tried again while the storage is away.

    Raises: StorageRefusedError; OSError if it is away for too long.
    """
    give_up = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return job()
        except (OSError, StorageError) as error:
            cause = error if isinstance(error, OSError) else error.__cause__
            if not isinstance(cause, OSError):
                raise
            refused = refusal(cause, ray.train.get_context().get_storage().storage_fs_path)
            if refused is not None:
                raise refused from error
            if time.monotonic() > give_up:
                raise cause from None
            _log.warning("The storage does not answer (%s). Trying again.", first_line(error))
            time.sleep(_PAUSE_S)
