"""What the sweep's process wishes of its trials' processes, which may be on other machines."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, Protocol

import ray

from bt_ray.training.remote_recorder import Asking, begin_here

Wish = Literal["stop", "give up"]


class Wishes(Protocol):
    """Where wishes are left for trials, by their numbers."""

    def leave(self, number: int, wish: Wish) -> None:
        """Leaves a wish for a trial; `give up` is not taken back by `stop`."""

    def read(self, number: int) -> Wish | None:
        """What is wished of a trial now."""


class WishBoard:
    """Wishes in this process."""

    def __init__(self) -> None:
        self._wishes: dict[int, Wish] = {}

    def leave(self, number: int, wish: Wish) -> None:
        """Leaves a wish."""
        if self._wishes.get(number) != "give up":
            self._wishes[number] = wish

    def read(self, number: int) -> Wish | None:
        """What is wished."""
        return self._wishes.get(number)


class RemoteWishes:
    """Wishes in an actor beside the sweep's process, which ends with it."""

    def __init__(self) -> None:
        self._board: Any = begin_here(WishBoard)

    def leave(self, number: int, wish: Wish) -> None:
        """Leaves a wish; the sweep repeats it while the trial runs."""
        self._board.leave.remote(number, wish)

    def read(self, number: int) -> Wish | None:
        """What is wished; waits for the answer."""
        return ray.get(self._board.read.remote(number))  # type: ignore[no-any-return]

    def asking(self, number: int) -> Callable[[], bool]:
        """Whether anything is wished of one trial, as far as is known; it does not wait."""
        wish = Asking(partial(self._board.read.remote, number))
        return lambda: wish.last() is not None
