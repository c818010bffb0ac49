"""A process that trains runs for another one, and ends as soon as that one is gone.

The other process holds the one end of a pipe and nothing else does, so that the system closes it
however that process ends; or it closes it itself, when no result is wanted any more.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait

from bt_ray.training.stop import StopRequest

_CHECKPOINT_S = 300
"""Seconds that a run has to write its checkpoint."""

_is_cut = threading.Event()
_is_training = threading.Lock()


def hold(lifeline: Connection) -> None:
    """Has this process end once the other end of `lifeline` is closed.

    If a run is `going`, it is asked to stop at a checkpoint first.
    """
    threading.Thread(target=_leave_after, args=(lifeline,), daemon=True).start()


@contextmanager
def going() -> Iterator[StopRequest]:
    """While a run trains: this process lives on until the run has stopped, as it is asked to.

    Yields: the request, which is made once the lifeline is cut; without one it never is.
    """
    with _is_training:
        yield StopRequest(asked=_is_cut.is_set)


def _leave_after(lifeline: Connection) -> None:
    wait([lifeline])
    _is_cut.set()
    _is_training.acquire(timeout=_CHECKPOINT_S)
    os._exit(128 + signal.SIGTERM)  # the main thread is in the middle of something, or waits
