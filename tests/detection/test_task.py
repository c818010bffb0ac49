"""A detector's task: what its name says, what it refuses, and that it goes on where it stopped."""

import math
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bt_ray.checkpoints.checkpoint import last_checkpoint
from bt_ray.config import ScalingSettings, override
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.stream.plan import build_plan
from bt_ray.detection.annotations import Annotations
from bt_ray.detection.assignment import TRAIN_ANNOTATIONS, Detection
from bt_ray.detection.learner import DetectionLearner
from bt_ray.detection.prepare import prepare_layout
from bt_ray.detection.protocols import SMALL, VOC, DetectionProtocol, SceneScaling
from bt_ray.detection.task import Annotated, build_task, detect
from bt_ray.detection.voc import read_voc_folder
from bt_ray.errors import DataError, RunStoppedError, SettingsError
from bt_ray.model.encoder import build_encoder
from bt_ray.model.pretrained import Pretrained
from bt_ray.presets import preset
from bt_ray.training.calendar import build_calendar
from tests.detection.layouts import write_voc_folder
from tests.detection.small import ENCODER

CPU = torch.device("cpu")
TINY = DetectionProtocol(
    steps=4, batch=2, rate=0.01, falls=(2,), warmup_steps=2, score_every=2,
    scaling=SceneScaling(short_px=(24, 32), test_short_px=32, longest_px=64),
)  # fmt: skip


@pytest.fixture
def pretrained(tmp_path: Path) -> Pretrained:
    changes = {
        "name": "small", "storage": str(tmp_path / "runs"), "data.train": "unused",
        "model.encoder": ENCODER, "views.image_px": 32, "training.precision": "fp32",
        "training.micro_batch": 8, "training.average_decay": 0.9,
    }  # fmt: skip
    settings = override(preset("images"), changes)
    torch.manual_seed(0)
    return Pretrained(build_encoder(settings).eval(), settings)


def annotated(folder: Path, storage: Path, split: str, *, left: int = 4) -> Annotated:
    """Seven images of 48 × 32 pixels in VOC's layout, as shards."""
    boxes = [("cat" if number % 2 else "dog", (left, 6, left + 20, 26)) for number in range(7)]
    images = {f"{split}{n}": ((48, 32 + n), [box]) for n, box in enumerate(boxes)}
    layout = read_voc_folder(write_voc_folder(folder, images, split), [split])
    return Annotated(*prepare_layout(layout, str(storage), rows_per_row_group=4))


@pytest.fixture
def data(tmp_path: Path) -> tuple[Annotated, Annotated]:
    folder, storage = tmp_path / "voc", tmp_path / "runs"
    return annotated(folder, storage, "train"), annotated(folder, storage, "test", left=8)


def task_of(pretrained: Pretrained, data: tuple[Annotated, Annotated], **changes: Any) -> Detection:
    protocol = changes.pop("protocol", TINY)
    usual = {
        "kind": "trial", "storage": pretrained.settings.storage,
        "scaling": ScalingSettings(workers=0, accelerator="cpu"),
    }  # fmt: skip
    return build_task(pretrained, protocol, *data, **(usual | changes))


def test_a_shorter_schedule_keeps_its_proportions() -> None:
    shorter = VOC.lasting(240)
    assert (shorter.steps, shorter.falls, shorter.warmup_steps) == (240, (180, 220), 10)
    assert shorter.score_every == 40
    assert replace(shorter, steps=VOC.steps, falls=VOC.falls, warmup_steps=VOC.warmup_steps,
                   score_every=VOC.score_every) == VOC  # fmt: skip
    for step in (0, 5, 9, 179, 180, 219, 220, 239):
        assert shorter.rate_factor(step) == pytest.approx(VOC.rate_factor(100 * step))
    assert SMALL.lasting(1).score_every == 1
    with pytest.raises(SettingsError, match="--steps must be above 0"):
        SMALL.lasting(0)


@pytest.mark.parametrize("sides", [{"short_px": ()}, {"short_px": (0, 9)}, {"longest_px": -1}])
def test_sides_without_length_are_refused(sides: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="px must be above 0 pixels"):
        replace(TINY.scaling, **sides)


def test_a_task_is_named_by_what_shapes_its_result(
    pretrained: Pretrained, data: tuple[Annotated, Annotated], tmp_path: Path
) -> None:
    """Neither places nor workers do; encoder, images, boxes, protocol, seed and precision do."""
    name = task_of(pretrained, data).settings.name
    train, test = data
    elsewhere = [annotated(tmp_path / "moved", tmp_path / "other", s, left=x)
                 for s, x in (("train", 4), ("test", 8))]  # fmt: skip
    assert elsewhere[0].root != train.root
    workers = ScalingSettings(workers=2)
    same = [
        task_of(pretrained, data, scaling=workers, storage=str(tmp_path / "else")),
        task_of(pretrained, (elsewhere[0], elsewhere[1])),
    ]
    assert {task.settings.name for task in same} == {name}
    encoder = build_encoder(pretrained.settings)
    moved = annotated(tmp_path / "boxes", tmp_path / "runs", "train", left=5)
    other_boxes = Annotated(train.root, moved.annotations)
    others = [
        task_of(replace(pretrained, encoder=encoder), data),
        task_of(pretrained, (other_boxes, test)),
        task_of(pretrained, (train, Annotated(test.root, test.annotations.take(range(6, -1, -1))))),
        task_of(pretrained, data, protocol=replace(TINY, rate=0.02)),
        task_of(pretrained, data, seed=1),
        task_of(pretrained, data, precision="bf16"),
    ]
    names = [task.settings.name for task in others]
    assert len({name, *names}) == 7


def test_a_digest_knows_values_and_order_not_their_place(tmp_path: Path) -> None:
    folder = tmp_path / "voc"
    annotations = annotated(folder, tmp_path, "train").annotations
    order = [3, 1, 0, 2, 6, 5, 4]
    back = annotations.take(order).take(np.argsort(order))
    back.write(tmp_path / "objects.arrow")
    mapped = Annotations.open(tmp_path / "objects.arrow")
    assert annotations.digest == back.digest == mapped.digest
    assert annotations.digest != annotations.take(order).digest
    for change in ({"is_difficult": np.ones(1, bool)}, {"labels": np.zeros(1, np.int64)},
                   {"boxes": np.ones((1, 4), np.float32)}, {"masks": (b"1",)}):  # fmt: skip
        changed = [replace(annotations[1], **change)]
        given = Annotations.of(changed, annotations.classes)
        assert given.digest != annotations.take([1]).digest, change


def test_settings_follow_the_protocol_step_by_step(
    pretrained: Pretrained, data: tuple[Annotated, Annotated]
) -> None:
    settings = task_of(pretrained, data).settings
    manifest = ShardSet.open(settings.data.train).manifest
    per_epoch = build_plan(settings, manifest).steps_per_epoch
    calendar = build_calendar(settings, per_epoch, CPU)
    assert (calendar.total_steps, calendar.probes, calendar.checkpoints) == (4, 2, 1)
    assert settings.schedule.epochs == math.ceil(4 / per_epoch)
    assert (settings.views.image_px, settings.views.count, settings.views.photometry) == (
        64, 1, "loader",
    )  # fmt: skip
    assert (settings.data.global_batch, settings.training.seed) == (2, 0)
    assert settings.training.micro_batch is None
    assert settings.training.average_decay is None


def test_images_that_cannot_be_learnt_from_are_refused(
    pretrained: Pretrained, data: tuple[Annotated, Annotated]
) -> None:
    train, test = data
    with pytest.raises(DataError, match="7 training images do not fill a batch of 8; give --batch"):
        task_of(pretrained, data, protocol=replace(TINY, batch=8))
    with pytest.raises(DataError, match="have no masks to learn from"):
        task_of(pretrained, data, protocol=replace(TINY, masks=True))
    others = Annotations.of(list(test.annotations), ("dog", "cat"))
    with pytest.raises(DataError, match="they have cat, dog and dog, cat"):
        task_of(pretrained, (train, Annotated(test.root, others)))


def terminated(learner: DetectionLearner, step: int) -> None:
    """What a learner does after a step: this process gets SIGTERM after the second."""
    if step == 2:
        signal.raise_signal(signal.SIGTERM)


@pytest.mark.run
def test_a_signal_leaves_a_checkpoint_and_the_same_command_goes_on(
    pretrained: Pretrained, data: tuple[Annotated, Annotated], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Bit for bit as if nothing had happened; and once it is finished, nothing is trained again."""
    train, test = (images.annotations for images in data)
    task = task_of(pretrained, data)
    with monkeypatch.context() as patched:
        patched.setattr(DetectionLearner, "after_step", terminated)
        with pytest.raises(
            RunStoppedError, match="SIGTERM stopped the detector's training after 2"
        ):
            detect(task, pretrained, train, test)
    assert last_checkpoint(task.run_folder)[1] == 2
    found = detect(task, pretrained, train, test)
    assert detect(task, pretrained, train, test) == found
    other = task_of(pretrained, data, storage=str(tmp_path / "other"))
    whole = detect(other, pretrained, train, test)
    assert whole.checkpoint != found.checkpoint
    for child in ("backbone", "rpn", "roi_heads"):
        files = [one.checkpoint / f"{child}.safetensors" for one in (found, whole)]
        assert files[0].read_bytes() == files[1].read_bytes(), child
    assert found.scores == whole.scores
    assert found.steps == 4
    assert [step for step, _ in found.curves["ap"]] == [2, 4]
    assert found.curves["ap50"][-1] == [4, found.scores["ap50"]]
    assert found.scores.keys() >= {"ap", "ap50", "ap75", "voc_ap50", "voc07_ap50"}
    assert all(0 <= score <= 1 for score in found.scores.values())
    assert (task.start / TRAIN_ANNOTATIONS).is_file()
