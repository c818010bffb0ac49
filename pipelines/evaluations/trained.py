"""Evaluations that train a classifier: their options, and training with visible progress."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bt_ray.config import DataSettings
from bt_ray.errors import DataError
from pipelines.evaluations.order import ImagesOrder, Opened
from pipelines.evaluations.work import WorkOrder
from pipelines.progress import ProgressLine
from pipelines.terminal import console

if TYPE_CHECKING:
    from bt_ray.data.shards.shard_set import ShardSet
    from bt_ray.evaluation.protocols import Protocol
    from bt_ray.model.pretrained import Pretrained
    from bt_ray.training.classify import Classified


@dataclass(frozen=True, kw_only=True)
class TrainedOrder(ImagesOrder, WorkOrder):
    """An evaluation that trains a classifier; options left out are the protocol's."""

    epochs: int | None = None
    """Passes over the training images."""
    batch: int | None = None
    """Images of one step, over all workers."""
    head_rate: float | None = None
    """First learning rate of the linear layer."""
    weight_decay: float | None = None
    """Weight decay of all trained parameters."""

    def adapted(self, protocol: "Protocol") -> "Protocol":
        """The protocol, with the values given on the command line in place of its own."""
        given = {name: getattr(self, name) for name in self.adaptable()}
        return replace(protocol, **{name: v for name, v in given.items() if v is not None})

    def adaptable(self) -> tuple[str, ...]:
        """Names of the options that replace a field of the protocol."""
        return ("epochs", "batch", "head_rate", "weight_decay")


def check_images(order: TrainedOrder, train: "ShardSet", test: "ShardSet") -> None:
    """Raises DataError unless a classifier can be learnt from `train` and scored on `test`."""
    from bt_ray.evaluation.labelled import check_disjoint, check_labels, read_labelled

    with console.status("looking for test images among the training images"):
        images, others = read_labelled(train), read_labelled(test)
    check_labels(images, others)
    check_disjoint(images.digests, others.digests, most_shared=order.most_shared)


def train_one(
    order: TrainedOrder,
    opened: Opened,
    pretrained: "Pretrained",
    protocol: "Protocol",
    train: "ShardSet",
    kind: str,
) -> "Classified":
    """A classifier on `pretrained`, trained on `train`, scored on the order's test images.

    Args:
      train: the shards to learn from.
      kind: the evaluation's kind, in messages and in its folder's name.
    Raises: DataError if the images do not fill a batch.
    """
    from bt_ray.training.classify import build_task, classify

    if train.manifest.num_rows < protocol.batch:
        raise DataError(
            f"{train.manifest.num_rows} training images do not fill a batch of {protocol.batch}; "
            f"give --batch {train.manifest.num_rows} or less, or more images."
        )
    own = DataSettings(train=train.root, test=opened.test.root)
    task = build_task(
        pretrained,
        protocol,
        own,
        kind=kind,
        storage=opened.given.storage,
        scaling=order.scaling,
        precision=order.precision,
        seed=order.seed,
    )
    console.print(f"{kind}: {task.run_folder}", soft_wrap=True, highlight=False)
    with ProgressLine(task.settings) as line:
        return classify(task, pretrained, trackers=[line])
