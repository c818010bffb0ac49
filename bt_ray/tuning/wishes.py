"""What the sweep's process wishes of its trials' processes, which may be on other machines."""

from typing import Any, Literal, Protocol

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

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
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(WishBoard)
        self._board: Any = actor.options(scheduling_strategy=here).remote()

    def leave(self, number: int, wish: Wish) -> None:
        """Leaves a wish; the sweep repeats it while the trial runs."""
        self._board.leave.remote(number, wish)

    def read(self, number: int) -> Wish | None:
        """What is wished; waits for the answer."""
        return ray.get(self._board.read.remote(number))  # type: ignore[no-any-return]

    def asking(self, number: int) -> "Asking":
        """Asks for one trial, without waiting."""
        return Asking(self._board, number)


class Asking:
    """Whether a trial shall stop, by the last answer; each call asks again for the next time."""

    def __init__(self, board: Any, number: int) -> None:
        self._board, self._number = board, number
        self._asked: Any = None
        self._answer: Wish | None = None

    def __call__(self) -> bool:
        """Whether something is wished, as far as is known."""
        if self._asked is None:
            self._asked = self._board.read.remote(self._number)
        elif ray.wait([self._asked], timeout=0)[0]:
            self._answer = ray.get(self._asked)
            self._asked = self._board.read.remote(self._number)
        return self._answer is not None
