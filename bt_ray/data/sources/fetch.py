"""Reads many items at a time: an object store answers slowly, but many requests at once."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

_AT_ONCE = 16


def fetch(read: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Yields `read` of each item, in order; up to 16 run at a time, ahead of the caller."""
    pending: deque[Future[R]] = deque()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for item in items:
            pending.append(pool.submit(read, item))
            if len(pending) > _AT_ONCE:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
