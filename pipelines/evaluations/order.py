"""The options, the images and the record that all evaluations have."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from bt_ray.config import DataSettings, Settings
from bt_ray.errors import DataError
from pipelines.encoders import EncoderOrder
from pipelines.terminal import console

if TYPE_CHECKING:
    from bt_ray.data.shards.shard_set import ShardSet
    from bt_ray.evaluation.published import Published
    from bt_ray.model.pretrained import Pretrained
    from bt_ray.tracking.mlflow import MlflowRun

UNTRAINED = "_untrained"
"""How names of scores of the encoder before pretraining end."""


@dataclass(frozen=True, kw_only=True)
class Evaluation(EncoderOrder):
    """The options of every evaluation."""

    baseline: bool = True
    """Score the same encoder before it was pretrained, too: with the weights that its run started
    from (--model.start-from), or else with new ones."""
    most_shared: int = 0
    """Test images that may be among the training images, byte for byte."""


@dataclass(frozen=True, kw_only=True)
class ImagesOrder(Evaluation):
    """An evaluation on images that the user may name."""

    train: str | None = None
    """Labelled images to learn the classes from, a folder or shards; none: the run's own."""
    test: str | None = None
    """Labelled images to score on; none: the run's held-out images."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The encoder that is evaluated.

    `given` are the command line's settings, such as the storage; `run` is the MLflow run that
    trained the encoder, if known.
    """

    given: Settings
    pretrained: "Pretrained"
    run: "MlflowRun | None"


@dataclass(frozen=True, kw_only=True)
class Opened(Subject):
    """An encoder and the images that it is evaluated on."""

    train: "ShardSet"
    test: "ShardSet"

    @property
    def num_images(self) -> int:
        """Images of both sets together."""
        return self.train.manifest.num_rows + self.test.manifest.num_rows

    @property
    def data(self) -> dict[str, Any]:
        """Path and digest of both sets, for the record."""
        return {
            part: {"path": shards.root, "digest": shards.manifest.digest}
            for part, shards in (("train", self.train), ("test", self.test))
        }


def open_order(order: ImagesOrder) -> Opened:
    """The encoder and the shards of its images, written if need be.

    Raises: CheckpointError, TrackingError, DataError.
    """
    from bt_ray.data.preparation.prepare import prepare_data
    from bt_ray.data.shards.shard_set import ShardSet
    from bt_ray.evaluation.encoder import open_encoder

    given = order.settings()
    pretrained, run = open_encoder(order.encoder, given)
    own = None if pretrained.settings is given else pretrained.settings.data
    data = prepare_data(replace(given, data=data_of(order, own))).data
    return Opened(
        given=given,
        pretrained=pretrained,
        run=run,
        train=ShardSet.open(data.train),
        test=ShardSet.open(str(data.test)),
    )


def data_of(order: ImagesOrder, own: DataSettings | None) -> DataSettings:
    """The images to evaluate on: those of the command line, or else those of the encoder's run.

    Raises: DataError if there are no images to learn from, or none to score on.
    """
    train = order.train or (own.train if own else None)
    test = order.test or (own.test if own else None)
    if train is None or test is None:
        raise DataError(
            "An evaluation needs labelled images to learn from and others to score on, and "
            f"{order.encoder} names none of its own; give --train FOLDER --test FOLDER."
        )
    return replace(own, train=train, test=test) if own else DataSettings(train=train, test=test)


def print_scores(
    order: Evaluation,
    title: str,
    columns: Mapping[str, str],
    scores: Mapping[str, float],
    published: "Sequence[Published]",
    *,
    untrained: str = "the same, before pretraining",
    others: Mapping[str, str] | None = None,
    deviations: Mapping[str, float] | None = None,
) -> None:
    """Prints a table of this encoder's scores, those before pretraining, and published ones.

    Args:
      columns: name of a score → its heading, which is also the name of the published score.
      untrained: the title of the row before pretraining.
      others: how names of further encoders' scores end → the title of the row.
      deviations: over seeds, of those scores that have one, by name.
    """
    table = Table(title=f"{title} of {order.encoder}")
    table.add_column("")
    for heading in columns.values():
        table.add_column(heading, justify="right")
    rows = {"": "this encoder", UNTRAINED: untrained} | dict(others or {})
    for suffix, row in rows.items():
        names = [f"{name}{suffix}" for name in columns]
        if any(name in scores for name in names):
            table.add_row(row, *(_shown(name, scores, deviations or {}) for name in names))
    for other in published:
        shown = (other.scores.get(heading) for heading in columns.values())
        table.add_row(other.source, *("" if value is None else f"{value:.1%}" for value in shown))
    console.print(table)


def _shown(name: str, scores: Mapping[str, float], deviations: Mapping[str, float]) -> str:
    """A score in per cent, with its deviation if it has one; empty if there is no such score."""
    if name not in scores:
        return ""
    spread = f" ± {100 * deviations[name]:.2f}" if name in deviations else ""
    return f"{scores[name]:.2%}{spread}"


def keep_record(
    order: Evaluation,
    name: str,
    subject: Subject,
    scores: Mapping[str, float],
    *,
    data: Mapping[str, Any],
    images_per_s: float,
    more: Mapping[str, Any] | None = None,
    files: Sequence[Path] = (),
) -> dict[str, Any]:
    """The record of an evaluation, kept in a file and logged to the encoder's run.

    Args:
      name: the evaluation's name, which is part of the file's name.
      data: the images that it was made on.
      more: further entries of the record.
      files: files to store with the run.
    """
    from bt_ray.evaluation.record import keep_evaluation
    from bt_ray.model.weights import fingerprint
    from bt_ray.storage.names import folder_of, name_of

    run = subject.run
    record = {
        "run_id": None if run is None else run.run_id,
        "steps": None,
        "images_per_s": round(images_per_s, 1),
        "scores": {score: round(value, 5) for score, value in scores.items()},
        "model_version": None,
        "evaluation": name,
        "order": {key: _plain(value) for key, value in asdict(order).items()},
        "data": data,
        "weights": fingerprint(subject.pretrained.encoder),
        **(more or {}),
    }
    storage = folder_of(subject.given.storage)
    file = keep_evaluation(
        record, name=name, reference=order.encoder, storage=storage, run=run, files=files
    )
    return record | {"paths": {"result": name_of(file)}}


def _plain(value: Any) -> Any:
    """The value as JSON can hold it."""
    if isinstance(value, Path):
        return str(value)
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
