"""Many requests under way at once: an object store answers late, but many at a time."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

_AT_ONCE = 16


def fetch(read: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """`read` of each item, in order; a few results more than asked for are held."""
    pending: deque[Future[R]] = deque()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for item in items:
            pending.append(pool.submit(read, item))
            if len(pending) > _AT_ONCE:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
