"""Work in another thread, and what comes of it."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def begin_beside(job: Callable[[], T], name: str) -> Future[T]:
    """What comes of `job`, which has begun in a thread that does not outlive the process."""
    outcome: Future[T] = Future()

    def work() -> None:
        try:
            outcome.set_result(job())
        except BaseException as error:  # raised where the outcome is asked for
            outcome.set_exception(error)

    threading.Thread(target=work, name=name, daemon=True).start()
    return outcome


def done() -> Future[None]:
    """Of what was nothing to do."""
    outcome: Future[None] = Future()
    outcome.set_result(None)
    return outcome
