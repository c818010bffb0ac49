"""The recorder of a run whose workers Ray carries: an actor beside the driver, and its callers."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from bt_ray.errors import BtRayError, RunFailedError
from bt_ray.storage.names import folder_of
from bt_ray.tracking.snapshots import Arrays
from bt_ray.tracking.tracker import Measures, now_ms
from bt_ray.training.recorder import FolderRecorder, Image
from bt_ray.training.stop import StopRequest

_TOLD_EVERY_S = 0.2
_REPEATED_EVERY_S = 5.0
"""An actor that was killed and began again has not heard yet."""
_ANSWERS_WITHIN_S = 60.0


class _Desk(FolderRecorder):
    """The actor. It outlives workers, ends with the driver, and begins again if it is killed."""

    def __init__(self, storage: str, run_folder: Path) -> None:
        folder_of(storage)
        super().__init__(run_folder, StopRequest())

    def stop(self) -> None:
        """Hears that the run shall stop."""
        self._stop.make()


class Asking:
    """A question to an actor, and the last answer: who asks does not wait for it.

    Args:
      ask: asks it.
    """

    def __init__(self, ask: Callable[[], Any]) -> None:
        self._ask = ask
        self._asked: Any = None
        self._answer: Any = None

    def last(self) -> Any:
        """The last answer, none before the first; each call asks again for the next time."""
        if self._asked is None:
            self._asked = self._ask()
        elif ray.wait([self._asked], timeout=0)[0]:
            self._answer = ray.get(self._asked)
            self._asked = self._ask()
        return self._answer


def begin_here(kind: type[Any], *arguments: Any) -> Any:
    """An actor on this node, which takes no CPU and begins again if it is killed.

    A call that it was killed in is repeated: it must do no harm twice.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(kind)
    return actor.options(scheduling_strategy=here).remote(*arguments)


class RemoteRecorder:
    """Hands over to the actor, and waits for nothing but in `flush`."""

    def __init__(self, desk: Any) -> None:
        self._desk = desk
        self._sent: deque[ray.ObjectRef[None]] = deque()
        self._wish = Asking(desk.wants_stop.remote)

    def __reduce__(self) -> tuple[type["RemoteRecorder"], tuple[Any]]:
        return RemoteRecorder, (self._desk,)

    def log(self, step: int, measures: Measures, time_ms: int | None = None) -> None:
        """Hands over the measures, with the time of now."""
        at = now_ms() if time_ms is None else time_ms
        self._send(self._desk.log.remote(step, dict(measures), at))

    def list_images(self, images: Sequence[Image]) -> None:
        """Hands over images that cannot be decoded."""
        self._send(self._desk.list_images.remote(list(images)))

    def keep(self, step: int, arrays: Arrays) -> None:
        """Hands over arrays."""
        self._send(self._desk.keep.remote(step, dict(arrays)))

    def fail(self, error: BtRayError) -> None:
        """Hands over why the work ends, and waits until it is heard."""
        ray.get(self._desk.fail.remote(error), timeout=_ANSWERS_WITHIN_S)

    def failure(self) -> BtRayError | None:
        """Asks the actor; none if that has gone."""
        try:
            found: BtRayError | None = ray.get(
                self._desk.failure.remote(), timeout=_ANSWERS_WITHIN_S
            )
        except RayError:
            return None
        return found

    def wants_stop(self) -> bool:
        """What the last answer was; it asks again for the next time."""
        return bool(self._wish.last())

    def send_measures(self) -> None:
        """Waits until the actor has sent them."""
        with suppress(Exception):  # whatever it is, the driver sends them in the end
            ray.get(self._desk.send_measures.remote(), timeout=_ANSWERS_WITHIN_S)

    def flush(self) -> None:
        """Returns when all is written that was handed over.

        Raises: RunFailedError if the driver's machine cannot write it, or does not answer.
        """
        try:
            _look_at(list(self._sent))
        finally:
            self._sent.clear()

    def _send(self, sent: "ray.ObjectRef[None]") -> None:
        """Looks back at what is through, and keeps the rest in mind."""
        self._sent.append(sent)
        while self._sent and ray.wait([self._sent[0]], timeout=0)[0]:
            _look_at([self._sent.popleft()])


def _look_at(sent: "list[ray.ObjectRef[None]]") -> None:
    """Raises RunFailedError for what could not be written, or was not in time."""
    try:
        ray.get(sent, timeout=_ANSWERS_WITHIN_S)
    except RayTaskError as error:
        if isinstance(error.cause, BtRayError):
            raise error.cause from error
        raise RunFailedError(f"What the run records cannot be written: {error.cause}") from error
    except RayError as error:
        raise RunFailedError(f"What the run records cannot be written: {error}") from error


@contextmanager
def recording(storage: str, run_folder: Path, stop: StopRequest) -> Iterator[RemoteRecorder]:
    """An actor of this node that writes into the folder, while the context lasts.

    Args:
      storage: of all runs, which the folder may be copied to.
      stop: is passed on to it.
    """
    desk = begin_here(_Desk, storage, run_folder)
    is_over = threading.Event()
    threading.Thread(target=_pass_on, args=(stop, desk, is_over), daemon=True).start()
    try:
        yield RemoteRecorder(desk)
    finally:
        is_over.set()
        ray.kill(desk)


def _pass_on(stop: StopRequest, desk: Any, is_over: threading.Event) -> None:
    told = -_REPEATED_EVERY_S
    while not is_over.wait(_TOLD_EVERY_S):
        if stop.is_made() and time.monotonic() - told > _REPEATED_EVERY_S:
            desk.stop.remote()
            told = time.monotonic()
