"""A run on a range of workers loses a node, gets another one, and computes what one process would.

Three nodes of Ray on this machine: two of the four workers go with one node, and one comes with
another.
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.ray_nodes import NO_TOKEN, lose, ray_head, ray_node
from bt_ray.checkpoints.checkpoint import last_checkpoint, stream_digest
from bt_ray.config import Settings, override, to_json
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.stream.batches import local_batches
from bt_ray.data.stream.digest import to_text
from bt_ray.json_files import read_lines
from bt_ray.tracking.tracker import METRICS, read_history
from bt_ray.training.worker import WORKERS

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

_LOOK_S, _LONGEST_S, _STORE_MB = 0.25, 200, 100
_MORE = 12
"""Steps of a group that are waited for."""
_ROUNDING = 1e-3


class Run:
    """`python -m pipelines.pretrain` in a process of its own, as its metrics show it."""

    def __init__(self, settings: Settings, **environment: str) -> None:
        given = Path(settings.storage) / f"given-{settings.name}" / "settings.json"
        given.parent.mkdir()
        given.write_text(to_json(settings))
        self._metrics = Path(settings.storage) / settings.name / METRICS
        self._told = given.with_name("stderr")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pipelines.pretrain", str(given)],
            stdout=subprocess.DEVNULL, stderr=self._told.open("w"),
            env={**os.environ, **NO_TOKEN, **environment},
        )  # fmt: skip

    def losses(self) -> dict[int, float]:
        """Each step's loss; of steps that came again the last one."""
        return read_history(self._metrics).get("train/loss", {})

    def groups(self) -> list[tuple[int, int]]:
        """Of each group that began: the step that it went on from, and its workers."""
        lines = [line for line in read_lines(self._metrics) if WORKERS in line]
        return [(line["step"], line[WORKERS]) for line in lines]

    def wait(self, workers: int | None = None, step: int = 0) -> int:
        """Waits until the newest group has so many workers and `_MORE` steps, and such a step.

        Returns: the newest step.
        """
        newest, deadline = 0, time.monotonic() + _LONGEST_S
        while time.monotonic() < deadline and self.process.poll() is None:
            groups, newest = self.groups(), max(self.losses(), default=0)
            begun, last = groups[-1] if groups else (0, None)
            if workers in (None, last) and newest >= max(step, begun + _MORE):
                return newest
            time.sleep(_LOOK_S)
        raise AssertionError(f"groups {self.groups()}, steps {newest}: {self._told.read_text()}")

    def close(self) -> None:
        """Ends what a test that failed has left."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def stop(self) -> Path:
        """Ctrl-C; the checkpoint that the run saves and leaves with."""
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(_LONGEST_S) == 128 + signal.SIGINT, self._told.read_text()
        checkpoint, step = last_checkpoint(self._metrics.parent)
        assert checkpoint is not None
        assert step == max(self.losses())
        return checkpoint


def _digest(settings: Settings, steps: int) -> str:
    """Of what one process sees in so many steps."""
    shards, device = ShardSet.open(settings.data.train), torch.device("cpu")
    batches = local_batches(settings, shards, start=0, stop=steps, device=device)
    with closing(batches):
        return to_text(sum(batch.digest for batch in batches))


@pytest.mark.slow
def test_four_workers_become_two_and_then_three_and_the_curve_is_that_of_one_process(
    small_settings: Settings,
) -> None:
    settings = override(
        small_settings,
        {"name": "elastic", "scaling.workers": "2..4", "scaling.grow_minutes": 0,
         "scaling.cpus_per_worker": 1, "data.global_batch": 12, "schedule.epochs": 100,
         "schedule.warmup_epochs": 10, "training.probe_every_epochs": 1000},
    )  # fmt: skip
    with ray_head(3, store_mb=_STORE_MB) as head, ExitStack() as stack:
        with ray_node(head, 2, store_mb=_STORE_MB) as node:
            run = stack.enter_context(closing(Run(settings, RAY_ADDRESS=head.address)))
            run.wait(workers=4, step=20)
            lose(node)
        run.wait(workers=2)
        with ray_node(head, 1, store_mb=_STORE_MB):
            run.wait(workers=3)
            checkpoint = run.stop()
    losses = run.losses()
    assert [workers for _, workers in run.groups()] == [4, 2, 3]
    assert list(losses) == list(range(1, max(losses) + 1))
    assert stream_digest(checkpoint) == _digest(settings, max(losses))
    with closing(Run(override(settings, {"name": "alone", "scaling.workers": 0}))) as alone:
        alone.wait(step=max(losses))
        alone.stop()
    curve = [alone.losses()[step] for step in losses]
    np.testing.assert_allclose(list(losses.values()), curve, rtol=_ROUNDING)
