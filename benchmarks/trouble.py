"""A run of small images on two nodes loses something for a while: how fast it is before and after.

The run is `pipelines.pretrain digits` with a worker on each node, as a user starts it on a cluster
that was started elsewhere; its rate is read off the times in its metrics. Lost are, for 25 seconds:

- `node`: the second one, all of its processes killed at once; then it is started again,
- `worker`: nothing more than one training worker, killed once,
- `store`: the room in the object store of the first node, which another program fills,
- `disk`: the storage of the shards, which does not answer: the readers' processes are stopped.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from benchmarks.ray_nodes import NO_TOKEN, Head, lose, ray_head, ray_node
from bt_ray.errors import RunFailedError

Loss = Literal["node", "worker", "store", "disk"]

_LOST_S, _STEADY_S, _MEASURED_S, _AFTER_S = 25.0, 15.0, 20.0, 30.0
_LOOK_S, _LONGEST_S = 10.0, 240.0
_CPUS, _STORE_MB, _GLOBAL_BATCH = 3, 200, 256
_KEPT = ("SplitCoordinator", "Reader", "Decoder", "RayTrainWorker")


@dataclass(frozen=True)
class Run:
    """A run that goes on: what it has logged, step by step, and its processes."""

    metrics: Path
    stderr: Path
    process: subprocess.Popen[bytes]

    def times(self) -> list[float]:
        """When each step was logged, in seconds since 1970; also of steps that came again."""
        with suppress(FileNotFoundError):
            lines = self.metrics.read_text().splitlines()
            told = [json.loads(line) for line in lines if line.endswith("}")]
            return [line["time_ms"] / 1000 for line in told if "train/loss" in line]
        return []

    def rate(self, start: float, stop: float) -> float:
        """Images/s between two times."""
        return sum(start < t <= stop for t in self.times()) * _GLOBAL_BATCH / (stop - start)


@contextmanager
def running(head: Head, storage: Path) -> Iterator[Run]:
    """The run, which would go on for hours."""
    told = storage.parent / "stderr"
    with told.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipelines.pretrain", "digits", "--name", "trouble",
             "--storage", str(storage), "--schedule.epochs", "100000", "--views.image-px", "8",
             "--data.global-batch", str(_GLOBAL_BATCH), "--model.projector-widths", "64", "64",
             "--scaling.workers", "2", "--scaling.cpus-per-worker", "2",
             "--scaling.threads-per-worker", "1", "--training.log-every-steps", "1",
             "--training.checkpoint-every-epochs", "50", "--training.probe-every-epochs", "100000"],
            stdout=subprocess.DEVNULL, stderr=stderr,
            env={**os.environ, **NO_TOKEN, "RAY_ADDRESS": head.address},
        )  # fmt: skip
    try:
        yield Run(storage / "trouble" / "metrics.jsonl", told, process)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


def rate_after(loss: Loss, work: Path) -> dict[str, float]:
    """Has a run lose that; images/s.

    Returns: `before`, over 20 s; `after`, over 20 s from half a minute after the return on;
      `ratio` of the two; `recovered_s`, from the return until 10 s in which the rate was 0.9 of
      the one before; `left_over`, processes of Ray Data and Train beyond those before.
    Raises: RunFailedError if the run does not start, or does not go on.
    """
    with (
        ray_head(_CPUS, store_mb=_STORE_MB) as head,
        ray_node(head, _CPUS, store_mb=_STORE_MB) as node,
        running(head, work / "runs") as run,
    ):
        began = _wait(run, lambda: len(run.times()) > 20, "does not start")
        time.sleep(_STEADY_S + _MEASURED_S)
        before = run.rate(began + _STEADY_S, began + _STEADY_S + _MEASURED_S)
        processes = _processes(head, node)
        with _without(loss, head, node) as second:
            returned = time.time()

            def is_as_fast() -> bool:
                now = time.time()
                return now - returned > _LOOK_S and run.rate(now - _LOOK_S, now) > 0.9 * before

            recovered = _wait(run, is_as_fast, "does not come back")
            time.sleep(max(0.0, returned + _AFTER_S + _MEASURED_S - time.time()))
            after = run.rate(returned + _AFTER_S, returned + _AFTER_S + _MEASURED_S)
            left_over = _processes(head, second) - processes
    return {
        "before": before,
        "after": after,
        "ratio": after / before,
        "recovered_s": max(0.0, recovered - _LOOK_S - returned),
        "left_over": float(left_over.total()),
    }


@contextmanager
def _without(loss: Loss, head: Head, node: int) -> Iterator[int]:
    """Takes it away for a while and brings it back; the second node, as it is then."""
    if loss == "node":
        lose(node)
        time.sleep(_LOST_S)
        with ray_node(head, _CPUS, store_mb=_STORE_MB) as again:
            yield again
        return
    if loss == "worker":
        [worker, *_] = _called("RayTrainWorker", node)
        worker.kill()
    elif loss == "store":
        fill = subprocess.run(
            [sys.executable, "-c", _FILL, head.address],
            env={**os.environ, **NO_TOKEN},
            check=False,
        )
        if fill.returncode:
            raise RunFailedError("The object store could not be filled.")
    else:
        readers = [*_called("Reader", head.pid), *_called("Reader", node)]
        for reader in readers:
            reader.suspend()
        time.sleep(_LOST_S)
        for reader in readers:
            reader.resume()
    yield node


_FILL = f"""
import sys, time, numpy as np, ray
ray.init(address=sys.argv[1], log_to_driver=False)
held = [ray.put(np.ones({2**20} * 10, np.uint8)) for _ in range({_STORE_MB // 10})]
time.sleep({_LOST_S})
"""


def _wait(run: Run, is_so: Callable[[], bool], otherwise: str) -> float:
    """When it was so. Raises: RunFailedError if the run has ended, or that takes too long."""
    deadline = time.time() + _LONGEST_S
    while not is_so():
        if time.time() > deadline or run.process.poll() is not None:
            raise RunFailedError(f"The run {otherwise}: {run.stderr.read_text()[-2000:]}")
        time.sleep(0.25)
    return time.time()


def _called(name: str, pid: int) -> list[psutil.Process]:
    """The descendants of a process whose title has that name."""
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.Error):
            if name in " ".join(process.cmdline()[:1]):
                found.append(process)
    return found


def _processes(head: Head, node: int) -> Counter[str]:
    return Counter(
        {name: len(_called(name, head.pid)) + len(_called(name, node)) for name in _KEPT}
    )
