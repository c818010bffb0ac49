"""A detector learns ten real images by heart: everything from the shards to the score fits."""

import zipfile
from pathlib import Path

import pytest

from bt_ray.detection.layouts import Layout
from bt_ray.detection.protocols import DetectionProtocol, SceneScaling
from bt_ray.detection.voc import read_voc
from bt_ray.tracking.tracker import METRICS, read_history
from bt_ray.training.local import train_here
from tests.conftest import shared_zip
from tests.detection.small import narrow_pyramid, task_of

NUM_IMAGES = 10
PROTOCOL = DetectionProtocol(
    backbone="fpn", steps=450, batch=2, rate=0.02, falls=(400,), warmup_steps=50, score_every=100,
    scaling=SceneScaling(
        short_px=(240,), test_short_px=240, longest_px=320, flip_probability=0.0
    ),
)  # fmt: skip


def ten_images(archive: zipfile.ZipFile, folder: Path) -> Layout:
    """The first ten of the list of training images, of blood cells of three kinds."""
    archive.extractall(folder)
    file = next(folder.rglob("ImageSets/Main/trainval.txt"))
    file.write_text("\n".join(file.read_text().split()[:NUM_IMAGES]) + "\n")
    return read_voc(folder, [("2007", "trainval")])


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_real_images_are_learnt_by_heart(tmp_path: Path) -> None:
    layout = ten_images(shared_zip("bccd-voc.zip"), tmp_path / "voc")
    task = task_of(
        layout,
        tmp_path,
        PROTOCOL,
        model__encoder="tests.detection.small:wider",
        training__probe_every_epochs=PROTOCOL.score_every * PROTOCOL.batch / NUM_IMAGES,
    )
    with narrow_pyramid(32, 128):
        train_here(task, PROTOCOL.steps)
    scores = read_history(task.run_folder / METRICS)["test/ap50"]
    assert scores[PROTOCOL.steps] >= 0.95, scores
