"""A linear classifier on the frozen encoder: `python -m pipelines.evaluate linear ENCODER`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from bt_ray.evaluation import protocols
from pipelines.evaluations.fixed import score_features
from pipelines.evaluations.order import (
    UNTRAINED,
    ImagesOrder,
    keep_record,
    open_order,
    print_scores,
)
from pipelines.evaluations.trained import TrainedOrder, check_images, train_one

if TYPE_CHECKING:
    from bt_ray.evaluation.protocols import Protocol
    from bt_ray.evaluation.published import Published
    from pipelines.evaluations.transfer import ListedOrder


@dataclass(frozen=True, kw_only=True)
class LinearOrder(TrainedOrder, ImagesOrder):
    """A linear classifier on the frozen encoder (the paper's Table 1).

    `paper` trains it on augmented views for 100 epochs, `small` for 10; `fast` computes the
    features of each image's central view once and fits a logistic regression to them, its penalty
    chosen on a tenth of the training images.
    """

    protocol: Literal["paper", "small", "fast"] = "paper"
    """How the classifier is trained."""


_PROTOCOLS = {"paper": protocols.LINEAR, "small": protocols.LINEAR_SMALL}


def evaluate_linear(order: LinearOrder) -> dict[str, Any]:
    """The record of the evaluation, which is shown, kept in a file and logged to the run."""
    from bt_ray.evaluation.published import LINEAR

    if order.protocol == "fast":
        return _fit_features(order)
    return train_linear(
        order, order.adapted(_PROTOCOLS[order.protocol]), "linear", "Linear classifier", LINEAR
    )


def _fit_features(order: LinearOrder) -> dict[str, Any]:
    from bt_ray.evaluation.linear import Linear
    from bt_ray.evaluation.published import LINEAR

    opened = open_order(order)
    method = Linear(order.seed)
    scores, images_per_s = score_features(order, opened, method, "linear", order.workers)
    print_scores(order, "Fast linear classifier", _columns("linear_fast", scores), scores, LINEAR)
    return keep_record(
        order, "linear-fast", opened, scores, data=opened.data, images_per_s=images_per_s
    )


def train_linear(
    order: "LinearOrder | ListedOrder",
    protocol: "Protocol",
    name: str,
    title: str,
    published: "Sequence[Published]",
) -> dict[str, Any]:
    """The record of a linear classifier that was trained on the frozen encoder, shown and kept.

    Args:
      name: what the names of the scores begin with.
      title: what it is called in the table for people.
    """
    from bt_ray.model.pretrained import untrained

    opened = open_order(order)
    check_images(order, opened.train, opened.test)
    encoders = {"": opened.pretrained}
    if order.baseline:
        encoders[UNTRAINED] = untrained(opened.pretrained)
    done = {
        suffix: train_one(order, opened, encoder, protocol, opened.train, f"{name}{suffix}")
        for suffix, encoder in encoders.items()
    }
    scores = {
        f"{name}_{score}{suffix}": value
        for suffix, found in done.items()
        for score, value in found.scores.items()
    }
    print_scores(order, title, _columns(name, scores), scores, published)
    ours = done[""]
    return keep_record(
        order,
        name,
        opened,
        scores,
        data=opened.data,
        images_per_s=ours.images_per_s,
        more={
            "steps": ours.steps,
            "encoder_sha256": {"before": ours.encoder_before, "after": ours.encoder_after},
            "checkpoint": str(ours.checkpoint),
        },
        files=[found.metrics for found in done.values()],
    )


def _columns(name: str, scores: "Mapping[str, float]") -> dict[str, str]:
    columns = {f"{name}_{score}": score for score in ("top1", "top5")}
    return {column: heading for column, heading in columns.items() if column in scores}
