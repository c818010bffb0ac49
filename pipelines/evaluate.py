"""Scores a pretrained encoder: `python -m pipelines.evaluate knn|linear ENCODER …`."""

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import tyro
from rich.table import Table

from bt_ray.config import DataSettings
from bt_ray.errors import DataError
from pipelines.encoders import EncoderOrder
from pipelines.terminal import console, finish, guarded

if TYPE_CHECKING:
    from bt_ray.data.shards import ShardSet
    from bt_ray.evaluation.frozen import Method
    from bt_ray.evaluation.published import Published
    from bt_ray.model.pretrained import Pretrained


@dataclass(frozen=True, kw_only=True)
class Evaluation(EncoderOrder):
    """What every evaluation is told."""

    train: str | None = None
    """Labelled images to learn the classes from, a folder or shards; none: the run's own."""
    test: str | None = None
    """Labelled images to score on; none: the run's held-out images."""
    baseline: bool = True
    """Score the same encoder untrained, too."""
    most_shared: int = 0
    """Test images that may be among the training images, byte for byte."""


@dataclass(frozen=True, kw_only=True)
class KnnOrder(Evaluation):
    """Weighted k-nearest-neighbour classification by cosine similarity, exact."""

    neighbors: int = 200
    """k."""
    temperature: float = 0.1
    """Temperature of the neighbours' votes, exp(cosine / temperature)."""

    name: ClassVar[str] = "knn"

    def method(self) -> "Method":
        """How features are scored."""
        from bt_ray.evaluation.knn import Knn

        return Knn(self.neighbors, self.temperature)

    def published(self) -> "tuple[Published, ...]":
        """Whose scores stand beside these."""
        from bt_ray.evaluation.published import KNN

        return KNN


@dataclass(frozen=True, kw_only=True)
class LinearOrder(Evaluation):
    """A linear classifier on features that are computed once, of each image's central view.

    Multinomial logistic regression, its penalty chosen on a tenth of the training images: the
    quick relative of the paper's Table 1, which augments the images and trains for 100 epochs.
    """

    seed: int = 0
    """Seed of the choice of the held-out tenth."""

    name: ClassVar[str] = "linear"

    def method(self) -> "Method":
        """How features are scored."""
        from bt_ray.evaluation.linear import Linear

        return Linear(self.seed)

    def published(self) -> "tuple[Published, ...]":
        """Whose scores stand beside these."""
        from bt_ray.evaluation.published import LINEAR

        return LINEAR


Order = (
    Annotated[KnnOrder, tyro.conf.subcommand("knn")]
    | Annotated[LinearOrder, tyro.conf.subcommand("linear")]
)


def main() -> None:
    """Parses the command line, scores the encoder, shows and keeps the result."""
    order: KnnOrder | LinearOrder = guarded(
        lambda: tyro.cli(Order, prog="python -m pipelines.evaluate")
    )
    finish(guarded(lambda: evaluate(order)))


def evaluate(order: KnnOrder | LinearOrder) -> dict[str, Any]:
    """The record of an evaluation, which is shown, kept in a file and logged to the run."""
    from bt_ray.data.prepare import prepare_data
    from bt_ray.data.shards import ShardSet
    from bt_ray.evaluation.encoder import open_encoder
    from bt_ray.evaluation.record import keep_evaluation
    from bt_ray.model.pretrained import untrained

    given = order.settings()
    pretrained, run = open_encoder(order.encoder, given)
    own = None if pretrained.settings is given else pretrained.settings.data
    data = prepare_data(replace(given, data=data_of(order, own))).data
    train, test = ShardSet.open(data.train), ShardSet.open(str(data.test))
    began = time.perf_counter()
    scores = measure(order, pretrained, train, test, "")
    if order.baseline:
        scores |= measure(order, untrained(pretrained), train, test, "_untrained")
    seconds = time.perf_counter() - began
    num_images = (train.manifest.num_rows + test.manifest.num_rows) * (1 + order.baseline)
    print_scores(order, scores)
    record = {
        "run_id": None if run is None else run.run_id,
        "steps": None,
        "images_per_s": round(num_images / seconds, 1),
        "scores": {name: round(value, 5) for name, value in scores.items()},
        "model_version": None,
        "evaluation": order.name,
        "order": asdict(order),
        "data": {
            "train": {"path": data.train, "digest": train.manifest.digest},
            "test": {"path": data.test, "digest": test.manifest.digest},
        },
    }
    file = keep_evaluation(
        record, name=order.name, reference=order.encoder, storage=Path(given.storage), run=run
    )
    return record | {"paths": {"result": str(file)}}


def data_of(order: Evaluation, own: DataSettings | None) -> DataSettings:
    """The images to evaluate on: those that are named, else the encoder's own run's.

    Raises: DataError if there are none to learn from, or to score on.
    """
    train = order.train or (own.train if own else None)
    test = order.test or (own.test if own else None)
    if train is None or test is None:
        raise DataError(
            "An evaluation needs labelled images to learn from and others to score on, and "
            f"{order.encoder} names none of its own; give --train FOLDER --test FOLDER."
        )
    return replace(own, train=train, test=test) if own else DataSettings(train=train, test=test)


def measure(
    order: KnnOrder | LinearOrder,
    pretrained: "Pretrained",
    train: "ShardSet",
    test: "ShardSet",
    suffix: str,
) -> dict[str, float]:
    """The encoder's scores, their names ending in `suffix`; progress is shown."""
    from bt_ray.evaluation.frozen import score_frozen
    from bt_ray.training.local import choose_device

    num_images = train.manifest.num_rows + test.manifest.num_rows
    with console.status("") as status:
        found = score_frozen(
            pretrained,
            train,
            test,
            order.method(),
            device=choose_device(pretrained.settings),
            most_shared=order.most_shared,
            on_progress=lambda done: status.update(
                f"{order.name}{suffix.replace('_', ', ')}: {done:,} of {num_images:,} images"
            ),
        )
    return {f"{name}{suffix}": value for name, value in found.items()}


def print_scores(order: KnnOrder | LinearOrder, scores: dict[str, float]) -> None:
    """A table for people: this encoder's scores, the untrained one's, what is published."""
    names = [name for name in scores if not name.endswith("_untrained")]
    table = Table(title=f"{order.name} of {order.encoder}")
    for column in ("", *(name.removeprefix(f"{order.name}_") for name in names)):
        table.add_column(column, justify="left" if not column else "right")
    rows = {"this encoder": "", "the same, untrained": "_untrained"}
    for title, suffix in rows.items():
        if f"{names[0]}{suffix}" in scores:
            table.add_row(title, *(f"{scores[f'{name}{suffix}']:.2%}" for name in names))
    for published in order.published():
        shown = (published.scores.get(name.removeprefix(f"{order.name}_")) for name in names)
        table.add_row(published.source, *("" if v is None else f"{v:.1%}" for v in shown))
    console.print(table)


if __name__ == "__main__":
    main()
