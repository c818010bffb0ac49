"""A function's answer within some seconds, or none: it may hang in code that nothing interrupts."""

import multiprocessing
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Generic, TypeVar

T = TypeVar("T")


class Within(Generic[T]):
    """A function that is computed in a process of its own, which is ended when time is over."""

    def __init__(self, function: Callable[..., T], *arguments: object) -> None:
        context = multiprocessing.get_context("spawn")
        self._answer, theirs = context.Pipe(duplex=False)
        self._process = context.Process(
            target=_send, args=(theirs, function, arguments), daemon=True
        )
        self._process.start()
        theirs.close()

    def result(self, limit_s: float) -> T | None:
        """What the function returned; none if that took longer, or the process died."""
        try:
            with suppress(EOFError):
                if self._answer.poll(limit_s):
                    answer: T = self._answer.recv()
                    return answer
            return None
        finally:
            self._process.kill()
            self._process.join()


def _send(
    connection: Connection, function: Callable[..., T], arguments: tuple[object, ...]
) -> None:
    connection.send(function(*arguments))
