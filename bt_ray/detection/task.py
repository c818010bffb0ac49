"""From an encoder and annotated images to a scored detector, in this process or by Ray Train."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from bt_ray.config import (
    SETTINGS_FILE,
    DataSettings,
    ScalingSettings,
    ScheduleSettings,
    Settings,
    to_json,
)
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.stream.plan import build_plan
from bt_ray.detection.annotations import Annotations
from bt_ray.detection.assignment import TEST_ANNOTATIONS, TRAIN_ANNOTATIONS, Detection
from bt_ray.detection.protocols import DetectionProtocol
from bt_ray.errors import DataError
from bt_ray.figures.methods import Curve
from bt_ray.model.pretrained import Pretrained
from bt_ray.model.weights import ENCODER, save_weights
from bt_ray.storage.working_copy import send
from bt_ray.tracking.tracker import Tracker
from bt_ray.training.complete import Completed, complete, name_by_content


@dataclass(frozen=True)
class Annotated:
    """Shards, and the objects in each of their rows."""

    root: str
    annotations: Annotations

    @property
    def digest(self) -> str:
        """SHA-256 of the images and of their objects; their place is no part of it."""
        digest = hashlib.sha256(ShardSet.open(self.root).manifest.content.encode())
        digest.update(self.annotations.digest.encode())
        return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Detected:
    """A detector that was trained, and what it scored.

    `scores` are those after the last step, by measure, such as `ap50`; `curves` all of them, in
    [step, share].
    """

    scores: dict[str, float]
    curves: dict[str, Curve]
    steps: int
    images_per_s: float
    checkpoint: Path
    metrics: Path


def build_task(
    pretrained: Pretrained,
    protocol: DetectionProtocol,
    train: Annotated,
    test: Annotated,
    *,
    kind: str,
    storage: str,
    scaling: ScalingSettings,
    precision: Literal["fp32", "bf16", "fp16"] = "fp32",
    seed: int = 0,
) -> Detection:
    """The task of training on `train`; the same for the same order, so that it can be continued.

    Where its folder and its images are, and how many workers do it, are no part of its name.

    Args:
      train, test: images to learn from and to score on.
      kind: first part of the name of the task's folder.
    Raises: DataError if the images do not fill a batch, or have no masks to learn; SettingsError.
    """
    _check_data(protocol, train, test)
    settings = _settings(
        pretrained.settings,
        protocol,
        (train, test),
        name=kind,
        storage=storage,
        scaling=scaling,
        precision=precision,
        seed=seed,
    )
    contents = [train.digest, test.digest]
    settings = name_by_content(settings, asdict(protocol), pretrained.encoder, contents)
    return Detection(settings=settings, protocol=protocol)


def detect(
    task: Detection,
    pretrained: Pretrained,
    train: Annotations,
    test: Annotations,
    *,
    trackers: Sequence[Tracker] = (),
) -> Detected:
    """Trains the task's detector, or goes on to, and scores it on the test images.

    Args:
      pretrained: the encoder that the task was built for.
      train, test: the objects of the images that it was built for.
      trackers: told of every measure.
    Raises: what `training.complete.complete` raises.
    """

    def keep_start() -> None:
        _keep_start(task, pretrained, {TRAIN_ANNOTATIONS: train, TEST_ANNOTATIONS: test})

    done = complete(task, "detector", keep_start=keep_start, trackers=trackers)
    return Detected(
        scores=done.scores,
        curves=_curves(done),
        steps=done.steps,
        images_per_s=done.images_per_s,
        checkpoint=done.checkpoint,
        metrics=done.metrics,
    )


def _check_data(protocol: DetectionProtocol, train: Annotated, test: Annotated) -> None:
    if train.annotations.classes != test.annotations.classes:
        raise DataError(
            "Training and test images must have the same classes, in the same order; they have "
            f"{', '.join(train.annotations.classes)} and {', '.join(test.annotations.classes)}."
        )
    if len(train.annotations) < protocol.batch:
        raise DataError(
            f"{len(train.annotations)} training images do not fill a batch of {protocol.batch}; "
            f"give --batch {len(train.annotations)} or less, or more images."
        )
    for part, annotations in (("training", train.annotations), ("test", test.annotations)):
        if protocol.masks and not annotations.has_masks:
            raise DataError(
                f"Objects of the {part} images have no masks to learn from or to score by; leave "
                "them out by --no-masks."
            )


def _settings(
    encoder: Settings,
    protocol: DetectionProtocol,
    data: tuple[Annotated, Annotated],
    *,
    name: str,
    storage: str,
    scaling: ScalingSettings,
    precision: Literal["fp32", "bf16", "fp16"],
    seed: int,
) -> Settings:
    """The settings of a detector's training: those of pretraining, changed by the protocol.

    Images are whole scenes, which are not recoloured; they are decoded and normalised as in the
    encoder's run. Scoring is due by steps, and checkpoints twice as often.

    Args:
      encoder: the settings of the run that trained the encoder.
    """
    train, test = data
    manifest = ShardSet.open(train.root).manifest
    settings = replace(
        encoder,
        name=name,
        storage=storage,
        data=DataSettings(train=train.root, test=test.root, global_batch=protocol.batch).decoded_as(
            encoder.data
        ),
        views=replace(
            encoder.views.without("jitter", "grayscale", "blur", "solarize"),
            count=1,
            small_count=0,
            photometry="loader",
            image_px=protocol.scaling.canvas_px,
        ),
        model=replace(encoder.model, start_from=None, start_sha256=None),
        scaling=scaling,
    )
    steps_per_epoch = build_plan(settings, manifest).steps_per_epoch
    return replace(
        settings,
        schedule=ScheduleSettings(
            epochs=math.ceil(protocol.steps / steps_per_epoch),
            steps=protocol.steps,
            warmup_epochs=0,
        ),
        training=replace(
            encoder.training,
            precision=precision,
            seed=seed,
            micro_batch=None,
            keep_best=False,
            patience=None,
            average_decay=None,
            probe_every_epochs=protocol.score_every / steps_per_epoch,
            checkpoint_every_epochs=max(1, protocol.score_every // 2) / steps_per_epoch,
        ),
    )


def _keep_start(
    task: Detection, pretrained: Pretrained, annotations: Mapping[str, Annotations]
) -> None:
    """Writes what every worker starts from."""
    task.start.mkdir(parents=True, exist_ok=True)
    save_weights(pretrained.encoder, task.start / ENCODER)
    (task.start / SETTINGS_FILE).write_text(to_json(task.settings))
    for name, objects in annotations.items():
        objects.write(task.start / name)
    for name in (ENCODER, SETTINGS_FILE, *annotations):
        send(task.start / name)


def _curves(done: Completed) -> dict[str, Curve]:
    """What was measured on test images, by measure."""
    return {
        name.removeprefix("test/"): [[step, value] for step, value in points.items()]
        for name, points in done.history.items()
        if name.startswith("test/")
    }
