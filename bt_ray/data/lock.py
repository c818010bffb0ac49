"""Locks on files, for processes that must not write into one folder at once."""

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import filelock

_log = logging.getLogger(__name__)

_WITHOUT_FLOCK = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
"""What file systems answer that do not lock, such as some NFS, Lustre and FUSE mounts."""


@cache
def _warn(reason: str) -> None:
    _log.warning(
        "The storage's file system does not lock files (%s): files that end in .held mark who "
        "writes where. One that a killed process of another machine left has to be removed.",
        reason,
    )


def marker_of(file: Path) -> Path:
    """The file that takes the lock's place where the file system does not lock."""
    return file.with_name(f"{file.name}.held")


@contextmanager
def held(file: Path, *, timeout_s: float = -1) -> Iterator[None]:
    """Holds the lock on `file` while the context lasts; it goes with the process.

    Where the file system does not lock, a file beside it names the process that holds it. One that
    a killed process of this machine left is not waited for.

    Args:
      timeout_s: how long to wait for another process; negative: as long as it takes.
    Raises: filelock.Timeout.
    """
    lock: filelock.BaseFileLock = filelock.FileLock(file, fallback_to_soft=False)
    try:
        lock.acquire(timeout=timeout_s)
    except OSError as error:
        if error.errno not in _WITHOUT_FLOCK:
            raise
        _warn(error.strerror)
        lock = filelock.SoftFileLock(marker_of(file))
        lock.acquire(timeout=timeout_s)
    try:
        yield
    finally:
        lock.release()
