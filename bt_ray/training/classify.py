"""From a task to a scored classifier."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from bt_ray.config import SETTINGS_FILE, DataSettings, ScalingSettings, to_json
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.errors import CheckpointError
from bt_ray.evaluation.features import fingerprint
from bt_ray.evaluation.protocols import Protocol
from bt_ray.model.pretrained import Pretrained, load_folder
from bt_ray.model.weights import ENCODER, save_weights
from bt_ray.storage.working_copy import send
from bt_ray.tracking.tracker import Tracker
from bt_ray.training.assignment import Classification
from bt_ray.training.complete import complete, name_by_content


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
    contents = [ShardSet.open(str(root)).manifest.content for root in (data.train, data.test)]
    settings = name_by_content(settings, asdict(protocol), pretrained.encoder, contents)
    return Classification(settings=settings, protocol=protocol)


def classify(
    task: Classification, pretrained: Pretrained, *, trackers: Sequence[Tracker] = ()
) -> Classified:
    """Trains the task's classifier, or continues to, and scores it on the test images.

    Args:
      pretrained: the encoder that the task was built for.
      trackers: told of every measure.
    Raises: CheckpointError if a frozen encoder came out changed; what `complete` raises.
    """
    before = fingerprint(pretrained.encoder)
    done = complete(
        task, "classifier", keep_start=lambda: _keep_start(task, pretrained), trackers=trackers
    )
    after = fingerprint(load_folder(done.checkpoint).encoder)
    if task.protocol.frozen and after != before:
        raise CheckpointError("The encoder changed while it was evaluated; it must be frozen.")
    return Classified(
        scores=done.scores,
        steps=done.steps,
        images_per_s=done.images_per_s,
        checkpoint=done.checkpoint,
        metrics=done.metrics,
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
