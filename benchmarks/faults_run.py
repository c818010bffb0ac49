"""The run that a fault happens to: its command, what it wrote, and what that tells."""

import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median

import psutil
from safetensors.numpy import load_file

from benchmarks.emulated_nodes import HEAD, PORT, Nodes, address
from bt_ray import errors
from bt_ray.checkpoints.checkpoint import last_checkpoint, stream_digest
from bt_ray.errors import RunFailedError
from bt_ray.json_files import read_lines
from bt_ray.tracking.tracker import METRICS

WORKERS, EPOCHS, STEPS_PER_EPOCH = 2, 12, 5
INTERVAL = 10
"""Steps between two checkpoints."""
WORKER_CPUS = 1.5
_UNFORESEEN = "(not foreseen; "
_LOOK_S = 0.1
_PAUSE = 4.0  # times a step, from which on a run stood still
_OURS = [name for name in vars(errors) if name.endswith("Error")]
_SAID = re.compile(rf"^(?:{'|'.join(_OURS)}|Stopped): .*", re.MULTILINE)

Weights = dict[str, bytes]

NOT_WANTED = ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "RAY_JOB_ID")
WANTED = {
    "RAY_AUTH_MODE": "disabled",  # nobody else reaches the nodes
    "RAY_memory_monitor_refresh_ms": "0",  # each node would see what all of them use
    "PYTHONUNBUFFERED": "1",
}
"""Environment of the nodes' Ray and of the command."""


@dataclass
class Run:
    """A run of the digits on the nodes' cluster, as a user starts it: `pipelines.pretrain`."""

    nodes: Nodes
    name: str
    storage: str
    data: Path
    """Folder of the shards `train` and `test`."""
    mlflow: str
    epochs: int = EPOCHS
    _starts: int = field(default=0, init=False)
    _process: subprocess.Popen[str] | None = field(default=None, init=False)

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.epochs * STEPS_PER_EPOCH

    @property
    def folder(self) -> Path:
        """The run's folder in its storage."""
        return Path(self.storage) / self.name

    def command(self) -> list[str]:
        """The same one each time."""
        return [
            sys.executable, "-m", "pipelines.pretrain", "digits", "--name", self.name,
            "--storage", self.storage, "--data.train", str(self.data / "train"),
            "--data.test", str(self.data / "test"), "--data.global-batch", "256",
            "--views.image-px", "16", "--model.projector-widths", "128", "128",
            "--schedule.epochs", str(self.epochs), "--schedule.warmup-epochs", "1",
            "--training.precision", "fp32", "--training.log-every-steps", "1",
            "--training.checkpoint-every-epochs", str(INTERVAL / STEPS_PER_EPOCH),
            "--training.probe-every-epochs", "100000", "--probe.bank-images", "256",
            "--probe.query-images", "128", "--scaling.workers", str(WORKERS),
            "--scaling.accelerator", "cpu", "--scaling.cpus-per-worker", str(WORKER_CPUS),
            "--scaling.threads-per-worker", "1",
        ]  # fmt: skip

    def start(self) -> None:
        """Gives the command on the first node."""
        self._starts += 1
        log = self.nodes.folder / f"{self.name}-{self._starts}.log"
        env = {"RAY_ADDRESS": f"{address(HEAD)}:{PORT}", "MLFLOW_TRACKING_URI": self.mlflow}
        with log.open("w") as file:
            self._process = self.nodes.begin(
                HEAD, self.command(), env, stdout=file, stderr=file, stdin=subprocess.DEVNULL
            )

    def said(self) -> str:
        """What the command printed since it was given last."""
        return (self.nodes.folder / f"{self.name}-{self._starts}.log").read_text()

    def sentence(self) -> str | None:
        """The sentence that the command ended with; none: it ended with none, or not foreseen.

        What the system says, such as `OSError: [Errno 28] No space left on device`, is none: it
        names neither what is full nor the way out.
        """
        sentences = _SAID.findall(self.said())
        return None if not sentences or _UNFORESEEN in self.said() else str(sentences[-1]).strip()

    def signal(self, number: signal.Signals) -> None:
        """Sends the driver a signal."""
        assert self._process is not None
        self.nodes.signal(self._process, number)

    def is_going(self) -> bool:
        """Whether the command is still at work."""
        return self._process is not None and self._process.poll() is None

    def wait(self, seconds: float) -> int | None:
        """The command's exit code; none if it goes on after so many seconds."""
        assert self._process is not None
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(max(0.0, seconds))
        return None

    def wait_for(self, is_so: Callable[[], bool], seconds: float) -> None:
        """Returns once it is so. Raises: RunFailedError after so many seconds, or at the end."""
        deadline = time.monotonic() + seconds
        while not is_so():
            if not self.is_going() or time.monotonic() > deadline:
                ended = "goes on" if self.is_going() else "has ended"
                raise RunFailedError(
                    f"The run {self.name} {ended} after {self.steps()} steps, before it came so "
                    f"far: {self.said()[-1500:]}"
                )
            time.sleep(_LOOK_S)

    def end(self) -> None:
        """Ends the command at once, if it still goes on."""
        if self._process is not None and self.is_going():
            with suppress(psutil.Error, ValueError):
                self.nodes.signal(self._process, signal.SIGKILL)
            self._process.kill()
            self._process.wait()

    def story(self) -> list[tuple[int, float]]:
        """Each step that was told of, in the order of telling, and when, in seconds since 1970."""
        return [
            (int(line["step"]), line["time_ms"] / 1000)
            for line in read_lines(self.folder / METRICS)
            if "train/loss" in line
        ]

    def steps(self) -> int:
        """The last step that was told of."""
        story = self.story()
        return story[-1][0] if story else 0

    def kept_s(self) -> float:
        """The most seconds that a checkpoint took from its step until it was kept."""
        lines = read_lines(self.folder / METRICS)
        return max((line.get("time/checkpoint_s", 0.0) for line in lines), default=0.0)


def result_of(run_folder: Path) -> tuple[int, str, Weights]:
    """Steps, digest of the data and every tensor of a run's last checkpoint, as bytes."""
    checkpoint, steps = last_checkpoint(run_folder)
    if checkpoint is None:
        return 0, "", {}
    weights = {
        f"{file.name}/{key}": tensor.tobytes()
        for file in sorted(checkpoint.glob("*.safetensors"))
        for key, tensor in load_file(file).items()
    }
    return steps, stream_digest(checkpoint), weights


@dataclass(frozen=True)
class Measured:
    """What a run's story says of a fault."""

    steps_lost: int
    """Steps that were taken again, all restarts together."""
    most_lost: int
    """The most of a single restart."""
    next_step_s: float
    """From the fault until the next step that the run kept."""
    rate_before: float
    """Steps/s, by the median step."""
    rate_after: float


def measure(story: Sequence[tuple[int, float]], fault_at: float, end: float = math.inf) -> Measured:
    """Of a story with steps before and after the fault.

    The step under way when the fault happens may still be told of. What counts as the next one is
    the first after the longest pause from then on; without a pause, the first told of.

    Args:
      end: where the fault's part of the story ends, as the next fault happens.
    """
    pairs = [(a, b) for a, b in pairwise(story) if fault_at < b[1] <= end]
    again = [max(0, a - b + 1) for (a, _), (b, _) in pairs]
    step_s = _median_step([(step, at) for step, at in story if at <= fault_at])
    longest, ended_at = max(((b - a, b) for (_, a), (_, b) in pairs), default=(0.0, fault_at))
    if longest < _PAUSE * step_s:
        ended_at = pairs[0][1][1] if pairs else fault_at
    after_s = _median_step([(step, at) for step, at in story if ended_at <= at <= end])
    return Measured(
        steps_lost=sum(again),
        most_lost=max(again, default=0),
        next_step_s=ended_at - fault_at,
        rate_before=1 / step_s if step_s else 0.0,
        rate_after=1 / after_s if after_s else 0.0,
    )


def _median_step(story: Sequence[tuple[int, float]]) -> float:
    """Median seconds between a step and the next; 0 where there are too few."""
    seconds = [b[1] - a[1] for a, b in pairwise(story) if b[0] == a[0] + 1]
    return median(seconds) if seconds else 0.0


def quiet_environment() -> None:
    """Takes out of this process what the user's environment would add to a run's."""
    for name in NOT_WANTED:
        os.environ.pop(name, None)
    os.environ.update(WANTED)
