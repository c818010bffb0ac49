"""A detector's training that is continued equals one that was not interrupted, bit for bit."""

import multiprocessing
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bt_ray.checkpoints.checkpoint import last_checkpoint
from bt_ray.config import override
from bt_ray.detection.assignment import Detection
from bt_ray.tracking.tracker import METRICS, read_history
from bt_ray.training.local import train_here
from tests.detection.small import PROTOCOL, rectangles, task_of

pytestmark = pytest.mark.run
PARTS = ("backbone", "rpn", "roi_heads", "optimizer")


def task_in(folder: Path, *, steps: int = 6, checkpoint_every: int = 100) -> Detection:
    """A task of four steps an epoch; scored at its end alone."""
    return task_of(
        rectangles(folder / "images"),
        folder,
        replace(PROTOCOL, masks=True, steps=steps),
        training__checkpoint_every_epochs=checkpoint_every / 4,
    )


def weights(task: Detection, steps: int) -> list[bytes]:
    checkpoint, step = last_checkpoint(task.run_folder)
    assert checkpoint is not None
    assert step == steps
    return [(checkpoint / f"{part}.safetensors").read_bytes() for part in PARTS]


def test_three_and_three_steps_are_six(tmp_path: Path) -> None:
    """With another process's random state in between, and scores that nobody's draws change."""
    found = {}
    for name, stops in (("whole", (6,)), ("in-two", (3, 6))):
        task = task_in(tmp_path / name)
        for stop in stops:
            torch.manual_seed(stop)
            train_here(task, stop)
        found[name] = weights(task, 6)
        history = read_history(task.run_folder / METRICS)
        assert list(history["train/loss"]) == [1, 2, 3, 4, 5, 6]
        assert 0 <= history["test/ap50"][6] <= 1
        assert set(history) >= {f"train/{term}" for term in ("rpn_objectness", "class", "mask")}
        assert history["train/rate"][6] == pytest.approx(0.002)
    assert found["whole"] == found["in-two"]


def _train(task: Detection) -> None:
    torch.set_num_threads(1)
    train_here(task, task.protocol.steps)


def test_a_process_that_is_killed_costs_nothing(tmp_path: Path) -> None:
    """Killed after some checkpoint; the next process ends with the same weights."""
    task = task_in(tmp_path / "killed", steps=8, checkpoint_every=1)
    process = multiprocessing.get_context("forkserver").Process(target=_train, args=(task,))
    process.start()
    while last_checkpoint(task.run_folder)[1] < 2:
        assert process.is_alive()
        time.sleep(0.05)
    process.kill()
    process.join()
    steps = last_checkpoint(task.run_folder)[1]
    assert 2 <= steps < 8
    _train(task)
    whole = task_in(tmp_path / "whole", steps=8)
    whole = replace(
        whole, settings=override(whole.settings, {"training.checkpoint_every_epochs": 0.25})
    )
    _train(whole)
    assert weights(task, 8) == weights(whole, 8)
