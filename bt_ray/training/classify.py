"""From a task to a scored classifier: in this process or by Ray Train, from where it stopped."""

import hashlib
import json
import signal
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from bt_ray.checkpoints.checkpoint import last_checkpoint
from bt_ray.config import SETTINGS_FILE, DataSettings, ScalingSettings, to_json
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.stream.plan import build_plan
from bt_ray.errors import CheckpointError, RunFailedError, RunStoppedError
from bt_ray.evaluation.features import fingerprint
from bt_ray.evaluation.protocols import Protocol
from bt_ray.model.pretrained import Pretrained, load_folder
from bt_ray.model.weights import ENCODER, save_weights
from bt_ray.storage.working_copy import send
from bt_ray.tracking.courier import Courier
from bt_ray.tracking.tracker import METRICS, Tracker, read_history
from bt_ray.training.assignment import Classification
from bt_ray.training.carry_out import carry_out
from bt_ray.training.run_folder import sole_owner
from bt_ray.training.stop import StopRequest


@dataclass(frozen=True, kw_only=True)
class Classified:
    """A classifier that was trained, and what it scored.

    `scores`: `top1` and, from six classes on, `top5`. `encoder_before`, `encoder_after`:
    SHA-256 of the encoder's weights.
    """

    scores: dict[str, float]
    steps: int
    images_per_s: float
    checkpoint: Path
    metrics: Path
    encoder_before: str
    encoder_after: str


def build_task(
    pretrained: Pretrained,
    protocol: Protocol,
    data: DataSettings,
    *,
    kind: str,
    storage: str,
    scaling: ScalingSettings,
    precision: Literal["fp32", "bf16", "fp16"] = "fp32",
    seed: int = 0,
) -> Classification:
    """The task of training on shards; the same for the same order, so that it can be continued.

    Where its folder and its images are, and how many workers do it, are no part of its name.

    Args:
      data: shards to learn from and to score on.
      kind: first part of the name of the task's folder.
    Raises: SettingsError.
    """
    settings = protocol.settings(
        pretrained.settings,
        name=kind,
        storage=storage,
        data=data,
        scaling=scaling,
        precision=precision,
        seed=seed,
    )
    facts = {
        "settings": to_json(
            replace(
                settings,
                storage="",
                data=replace(settings.data, train="", test=None),
                scaling=ScalingSettings(),
            )
        ),
        "protocol": asdict(protocol),
        "encoder": fingerprint(pretrained.encoder),
        "data": [ShardSet.open(str(root)).manifest.content for root in (data.train, data.test)],
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
    return Classification(settings=replace(settings, name=f"{kind}-{digest}"), protocol=protocol)


def classify(
    task: Classification, pretrained: Pretrained, *, trackers: Sequence[Tracker] = ()
) -> Classified:
    """Trains the task's classifier, or continues to, and scores it on the test images.

    Args:
      pretrained: the encoder that the task was built for.
      trackers: told of every measure.
    Raises: CheckpointError if a frozen encoder came out changed; LaunchError if the task is
      going already or the cluster is too small; RunFailedError; RunStoppedError after SIGINT or
      SIGTERM; UnreadableImagesError; NonFiniteLossError.
    """
    settings, folder = task.settings, task.run_folder
    before = fingerprint(pretrained.encoder)
    manifest = ShardSet.open(settings.data.train).manifest
    total_steps = settings.schedule.total_steps(build_plan(settings, manifest).steps_per_epoch)
    with sole_owner(folder):
        _keep_start(task, pretrained)
        stop = StopRequest()
        with Courier(folder / METRICS, trackers), stop.listening(None):
            carry_out(task, total_steps, stop)
        checkpoint, steps = last_checkpoint(folder)
    if stop.signal_number is not None and steps < total_steps:
        raise _stopped(stop.signal_number, steps, total_steps)
    if checkpoint is None or steps < total_steps:
        raise RunFailedError(
            f"The classifier's training ended after {steps} of {total_steps} steps; the same "
            "command continues it."
        )
    after = fingerprint(load_folder(checkpoint).encoder)
    if task.protocol.frozen and after != before:
        raise CheckpointError("The encoder changed while it was evaluated; it must be frozen.")
    history = read_history(folder / METRICS)
    return Classified(
        scores={
            name.removeprefix("test/"): points[total_steps]
            for name, points in history.items()
            if name.startswith("test/")
        },
        steps=steps,
        images_per_s=list(history["time/images_per_s"].values())[-1],
        checkpoint=checkpoint,
        metrics=folder / METRICS,
        encoder_before=before,
        encoder_after=after,
    )


def _keep_start(task: Classification, pretrained: Pretrained) -> None:
    """Writes what every worker starts from."""
    task.start.mkdir(parents=True, exist_ok=True)
    save_weights(pretrained.encoder, task.start / ENCODER)
    (task.start / SETTINGS_FILE).write_text(to_json(task.settings))
    for name in (ENCODER, SETTINGS_FILE):
        send(task.start / name)


def _stopped(signal_number: int, steps: int, total_steps: int) -> RunStoppedError:
    error = RunStoppedError(
        f"{signal.Signals(signal_number).name} stopped the classifier's training after {steps} of "
        f"{total_steps} steps, which are saved. The same command continues it."
    )
    error.signal_number = signal_number
    return error
