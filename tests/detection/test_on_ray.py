"""A detector trained by Ray Train's workers: the scenes and steps of one process."""

from dataclasses import replace
from pathlib import Path

import pytest

from bt_ray.checkpoints.checkpoint import last_checkpoint, stream_digest
from bt_ray.tracking.tracker import METRICS, read_history
from bt_ray.training.carry_out import carry_out
from bt_ray.training.stop import StopRequest
from tests.detection.small import PROTOCOL, rectangles, task_of

STEPS = 3


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_two_workers_train_the_detector_of_this_process(tmp_path: Path) -> None:
    found = []
    for workers in (0, 2):
        folder = tmp_path / str(workers)
        task = task_of(
            rectangles(folder / "images"),
            folder,
            replace(PROTOCOL, steps=STEPS),
            scaling__workers=workers,
            scaling__cpus_per_worker=0.5,
            scaling__threads_per_worker=1,
        )
        carry_out(task, STEPS, StopRequest())
        checkpoint, step = last_checkpoint(task.run_folder)
        assert checkpoint is not None
        assert step == STEPS
        found.append((stream_digest(checkpoint), read_history(task.run_folder / METRICS)))
    (own_digest, here), (digest, there) = found
    assert digest == own_digest
    assert there["train/loss"] == pytest.approx(here["train/loss"], rel=0.02)
    assert there["test/ap50"].keys() == here["test/ap50"].keys() == {STEPS}
