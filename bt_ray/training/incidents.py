"""What a run survives: losses that checkpoints come between, and nodes that come back in time."""

import os
import time
from collections.abc import Callable
from textwrap import shorten

import ray
from ray.exceptions import OutOfMemoryError, RayActorError

from bt_ray.config import Settings
from bt_ray.errors import BtRayError, LaunchError, RunFailedError
from bt_ray.ray_internals import Watch
from bt_ray.training.cluster import ask_autoscaler, check_resources, cpus_needed, minutes_to_wait

CONTINUES = "What is saved is kept; the same command continues it."
_START_S = (10.0, 60.0)
"""Seconds for workers to get their places before Ray Train tries again: at least, at most."""
_POLL_S, _LOOK_S = 2.0, 10.0
_TRACE, _LONGEST = "Traceback (most recent", 400
_WATCHED = {
    # A worker that is stopped, or whose machine hangs, is found after this time. Its answer needs
    # a thread of its process for a millisecond, and no step, checkpoint or probe keeps Python from
    # that for more than seconds. Ray's own: 600.
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "45",
    # Workers that wait for a lost one in a sum do not take their group apart: they are ended.
    # Ray's own: 30.
    "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "5",
}
_NCCL = {
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",  # a time-out ends the worker
    "TORCH_NCCL_DUMP_ON_TIMEOUT": "1",  # and leaves a record of the last sums in /tmp
    "TORCH_NCCL_TRACE_BUFFER_SIZE": "2000",
}


def nccl_environment() -> dict[str, str]:
    """Of workers on GPUs: what NCCL does when a sum does not come to an end; the user's wins."""
    return {name: os.environ.get(name, value) for name, value in _NCCL.items()}


class Incidents:
    """Counts a run's losses since its last checkpoint, and the minutes that it has waited.

    It does so in Ray Train's controller (`ray_internals.Watcher`).

    Args:
      failure: what a worker said would come again, if anything.
      waits_for_ever: as a trial does, whose place another trial may have taken meanwhile.
      saved: tells the steps of the newest checkpoint in the storage. One that was stored just
        before a loss counts, whether or not all workers could report it.
    """

    def __init__(
        self,
        settings: Settings,
        saved: Callable[[], int],
        failure: Callable[[], BtRayError | None] | None = None,
        *,
        waits_for_ever: bool = False,
    ) -> None:
        self._settings, self._saved, self._failure = settings, saved, failure
        self._waits_for_ever = waits_for_ever
        self._last_saved = saved()
        self.losses = 0
        """In a row, without a new checkpoint in between."""
        self._waits_since: float | None = None
        self._short_since: float | None = None
        self._looked = 0.0

    def finds_room(self) -> bool:
        """Whether the cluster has all that the run needs; waits for it a part of the minutes.

        Ray Train looks for the workers' places alone. Without a CPU for reading besides, they would
        start, and wait for their data forever. An autoscaler is asked for all.
        """
        asked = False
        deadline = time.monotonic() + _start_timeout_s(self._settings)
        while not (has_room := self._lack() is None) and time.monotonic() < deadline:
            ask_autoscaler(self._settings)  # again: others that ask push it out
            asked = True
            time.sleep(_POLL_S)
        if asked and has_room:
            ask_autoscaler(None)
        return has_room

    def began(self) -> None:
        """All workers have started."""
        self._waits_since = None

    def runs(self) -> None:
        """Workers run. Raises: RunFailedError if nothing is left to read their data, for too long.

        They would wait for it without a word, and for ever.
        """
        now = time.monotonic()
        if now - self._looked < _LOOK_S:
            return
        self._looked = now
        lack = self._lack()
        if lack is None:
            self._short_since = None
            return
        if self._short_since is None:
            self._short_since = now
        minutes = minutes_to_wait(self._settings, is_start=False)
        if now - self._short_since >= max(_LOOK_S, 60 * minutes):
            raise RunFailedError(
                f"Nothing was left to read the run's data for {minutes:g} minutes "
                f"(scaling.wait_minutes): {lack} {CONTINUES}"
            )

    def lost(self, error: Exception, *, was_announced: bool) -> None:
        """Workers failed, and are replaced.

        Raises: RunFailedError if that happens too often; the error that would come again.
        """
        failure = None if self._failure is None else self._failure()
        if failure is not None:
            raise failure
        self._waits_since = time.monotonic()
        if was_announced:
            return
        self.count()
        most = self._settings.scaling.max_failures
        if self.losses > most:
            raise RunFailedError(
                f"Ray Train gave up on the run{why(error)} It was failure {self.losses} in a row "
                f"without a new checkpoint (scaling.max_failures={most}). {CONTINUES}"
            )

    def count(self) -> int:
        """One loss more; those before the newest checkpoint are forgotten. Returns: in a row."""
        before, self._last_saved = self._last_saved, self._saved()
        self.losses = 1 if self._last_saved > before else self.losses + 1
        return self.losses

    def waits(self, error: Exception) -> None:
        """Workers could not start. Raises: RunFailedError if that takes too long."""
        now = time.monotonic()
        if self._waits_since is None:
            self._waits_since = now
        minutes = minutes_to_wait(self._settings, is_start=False)
        most = max(_START_S[0], 60 * minutes)
        if not self._waits_for_ever and now - self._waits_since >= most:
            raise RunFailedError(
                f"Workers could not be started again for {minutes:g} minutes "
                f"(scaling.wait_minutes): {self._lack() or _others_use_it(error)} {CONTINUES}"
            )

    def _lack(self) -> str | None:
        """What the cluster lacks for the run, in a sentence; none: nothing."""
        try:
            check_resources(self._settings, cpus_needed(self._settings), ray.cluster_resources())
        except LaunchError as lack:
            return str(lack)
        return None


def _others_use_it(error: Exception) -> str:
    return f"the cluster is large enough, but others use it, or they fail{why(error)}"


def watch(incidents: Incidents, settings: Settings) -> Watch:
    """What has Ray Train's controller tell of the run's incidents."""
    start = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(_start_timeout_s(settings))}
    return Watch(incidents, _WATCHED | start)


def _start_timeout_s(settings: Settings) -> float:
    least, most = _START_S
    return min(most, max(least, 60 * minutes_to_wait(settings, is_start=False)))


def why(error: Exception) -> str:
    """What a person needs of Ray Train's report: of which worker, and the cause in a sentence.

    A worker that is gone comes first: others fail because they wait for it.
    """
    failures = getattr(error, "worker_failures", {})
    if not failures:
        return f": {_sentence(getattr(error, 'controller_failure', error))}"
    rank = min(failures, key=lambda rank: (_TRACE in str(failures[rank]), rank))
    return f" on worker {rank}: {_sentence(failures[rank])}"


def _sentence(failure: Exception) -> str:
    """What Ray says at length, or the last line of a trace."""
    cause = getattr(failure, "health_check_failure", failure)
    lines = [line for line in str(cause).splitlines() if line.strip() and line[0] != "\t"]
    if not lines:
        return type(cause).__name__
    if isinstance(cause, OutOfMemoryError):
        said = " ".join(lines[:2])
    elif isinstance(cause, RayActorError) or _TRACE in str(cause):
        said = lines[-1]
    else:
        said = lines[0]
    return shorten(said, _LONGEST, placeholder=" …")
