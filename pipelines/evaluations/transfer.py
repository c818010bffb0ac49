"""Fixed features on other data sets: `python -m pipelines.evaluate transfer DATA ENCODER`."""

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import tyro

from bt_ray.errors import DataError
from bt_ray.evaluation import protocols
from bt_ray.evaluation.protocols import Protocol
from pipelines.evaluations.classifier import train_linear
from pipelines.evaluations.trained import TrainedOrder
from pipelines.evaluations.voc import VocOrder, evaluate_voc


@dataclass(frozen=True, kw_only=True)
class ListedOrder(TrainedOrder):
    """A linear classifier on the frozen encoder, on a data set of a known layout."""

    root: str | None = None
    """Folder or URI that the data set was unpacked in; none: `train` and `test` name shards of
    its splits."""

    kind: ClassVar[str]
    title: ClassVar[str]
    protocol: ClassVar[Protocol]

    def located(self) -> "ListedOrder":
        """The order with the splits in `root` named.

        Raises: DataError if neither it nor both splits are given.
        """
        if self.root is None:
            if self.train is None or self.test is None:
                raise DataError(
                    f"transfer {self.kind} needs --root, the folder that the data set was unpacked "
                    "in, or its splits as shards: --train and --test."
                )
            return self
        train, test = (f"{self.kind}:{split}:{self.root}" for split in ("train", "val"))
        return replace(self, train=self.train or train, test=self.test or test)


@dataclass(frozen=True, kw_only=True)
class Places205Order(ListedOrder):
    """Places-205: 14 epochs, rate 0.01, a tenth of it from epochs 5 and 10 on (Table 3).

    Layout: trainvalsplit_places205/{train,val}_places205.csv, and the images below
    data/vision/torralba/deeplearning/images256.
    """

    kind = "places205"
    title = "Places-205, linear classifier"
    protocol = protocols.PLACES205


@dataclass(frozen=True, kw_only=True)
class Inaturalist18Order(ListedOrder):
    """iNaturalist 2018: 84 epochs, rate 0.01, a tenth of it from epochs 24, 48, 72 on (Table 3).

    Layout: train2018.json, val2018.json, and the images below train_val2018.
    """

    kind = "inat18"
    title = "iNaturalist 2018, linear classifier"
    protocol = protocols.INATURALIST18


@dataclass(frozen=True, kw_only=True)
class TransferOrder:
    """Fixed features on other data sets (the paper's Table 3)."""

    data: Annotated[
        Annotated[Places205Order, tyro.conf.subcommand("places205")]
        | Annotated[Inaturalist18Order, tyro.conf.subcommand("inat18")]
        | Annotated[VocOrder, tyro.conf.subcommand("voc07")],
        tyro.conf.arg(name=""),
    ]


def evaluate_transfer(order: TransferOrder) -> dict[str, Any]:
    """Makes the evaluation; its record, which is printed, kept in a file and logged to the run."""
    from bt_ray.evaluation import published

    chosen = order.data
    if isinstance(chosen, VocOrder):
        return evaluate_voc(chosen)
    rows = {"places205": published.PLACES205, "inat18": published.INATURALIST18}
    return train_linear(
        chosen.located(),
        chosen.adapted(chosen.protocol),
        chosen.kind,
        chosen.title,
        rows[chosen.kind],
    )
