"""Fine-tuning on a part of the labels: `python -m pipelines.evaluate semi ENCODER`."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.text import Text

from bt_ray.errors import SettingsError
from bt_ray.evaluation import protocols
from pipelines.evaluations.order import (
    UNTRAINED,
    Opened,
    keep_record,
    open_order,
    print_scores,
)
from pipelines.evaluations.trained import TrainedOrder, check_images, train_one
from pipelines.terminal import console

if TYPE_CHECKING:
    from bt_ray.data.shards.shard_set import ShardSet
    from bt_ray.evaluation.protocols import Protocol
    from bt_ray.model.pretrained import Pretrained

_PROTOCOLS = {"paper": protocols.SEMI, "small": protocols.SEMI_SMALL}
_FROM_SCRATCH = {"paper": protocols.SEMI, "small": protocols.SEMI_SMALL_SCRATCH}


@dataclass(frozen=True, kw_only=True)
class SemiOrder(TrainedOrder):
    """Fine-tuning of encoder and linear layer on a part of the labels (the paper's Table 2).

    The same from untrained weights, which is supervised training on the same labels for as many
    epochs, stands beside it.
    """

    protocol: Literal["paper", "small"] = "paper"
    """How the classifier is trained."""
    percent: tuple[float, ...] = (1.0, 10.0)
    """Shares of the training images, of each class equally many, drawn by `seed`."""
    lists: tuple[Path, ...] = ()
    """Text files that name the training images to use, one a line, such as SimCLR's 1percent.txt;
    in place of `percent`."""
    encoder_rate: float | None = None
    """First learning rate of the encoder."""
    scratch_rate: float | None = None
    """First learning rate of encoder and linear layer of the untrained one; none: those of the
    protocol (`paper` has the same for both)."""

    def __post_init__(self) -> None:
        for percent in self.percent:
            if not (math.isfinite(percent) and 0 < percent <= 100):
                raise SettingsError(f"--percent {percent:g} must lie above 0, and at most at 100.")

    def adaptable(self) -> tuple[str, ...]:
        """Names of the options that replace a field of the protocol."""
        return (*super().adaptable(), "encoder_rate")


def evaluate_semi(order: SemiOrder) -> dict[str, Any]:
    """Makes the evaluation; its record, which is printed, kept in a file and logged to the run."""
    from bt_ray.checkpoints.start import untrained
    from bt_ray.evaluation.published import SEMI

    opened = open_order(order)
    subsets = _subsets(order, opened)
    for subset in subsets.values():
        check_images(order, subset, opened.test)
    protocol = order.adapted(_PROTOCOLS[order.protocol])
    ways: dict[str, tuple[Pretrained, Protocol]] = {"": (opened.pretrained, protocol)}
    if order.baseline:
        ways[UNTRAINED] = (untrained(opened.pretrained), _from_scratch(order))
    scores, done = dict[str, float](), {}
    for label, subset in subsets.items():
        for suffix, (encoder, chosen) in ways.items():
            kind = f"semi-{label}{suffix}"
            done[kind] = train_one(order, opened, encoder, chosen, subset, kind)
            for score, value in done[kind].scores.items():
                scores[f"semi_{label}_{score}{suffix}"] = value
    columns = {
        f"semi_{label}_{score}": f"{_words(label)} {score}"
        for score in ("top1", "top5")
        for label in subsets
        if f"semi_{label}_{score}" in scores
    }
    untrained_row = "the same before pretraining (supervised)"
    print_scores(order, "Fine-tuning", columns, scores, SEMI, untrained=untrained_row)
    return keep_record(
        order,
        "semi",
        opened,
        scores,
        data=opened.data,
        images_per_s=sum(found.images_per_s for found in done.values()) / len(done),
        more={
            "steps": sum(found.steps for found in done.values()),
            "subsets": {
                label: {"images": subset.manifest.num_rows, "digest": subset.manifest.digest}
                for label, subset in subsets.items()
            },
            "checkpoints": {kind: str(found.checkpoint) for kind, found in done.items()},
        },
        files=[found.metrics for found in done.values()],
    )


def _from_scratch(order: SemiOrder) -> "Protocol":
    """The protocol from untrained weights: the order's epochs and batch, and `scratch_rate`."""
    plain = replace(order, head_rate=order.scratch_rate, encoder_rate=order.scratch_rate)
    return plain.adapted(_FROM_SCRATCH[order.protocol])


def _subsets(order: SemiOrder, opened: Opened) -> "dict[str, ShardSet]":
    """Name of a part, such as `1pct`, → shards of its images, which are written if need be."""
    from bt_ray.data.preparation.prepare import write_source
    from bt_ray.data.shards.shard_set import ShardSet
    from bt_ray.data.shards.subset import draw_balanced, find_rows, read_names, subset
    from bt_ray.evaluation.labelled import check_complete, read_labels

    labels = read_labels(opened.train)
    check_complete(labels, "training")
    if order.lists:
        rows = {file.stem: find_rows(opened.train, read_names(file)) for file in order.lists}
    else:
        num_classes = len(opened.train.manifest.classes)
        rows = {
            f"{percent:g}pct": draw_balanced(
                labels.numpy(), num_classes, share=percent / 100, seed=order.seed
            )
            for percent in order.percent
        }
    found = {}
    for label, chosen in rows.items():
        with console.status(Text(f"{_words(label)}: {len(chosen):,} images")):
            source = subset(opened.train, chosen, f"{_words(label)} of {opened.train.root}")
            pixels = opened.train.manifest.pixels
            root = write_source(source, opened.given.storage, rows_per_row_group=64, pixels=pixels)
            found[label] = ShardSet.open(root)
    return found


def _words(label: str) -> str:
    return label.replace("pct", " %") if label.endswith("pct") else label
