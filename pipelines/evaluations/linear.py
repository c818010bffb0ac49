"""A linear classifier on the frozen encoder: `python -m pipelines.evaluate linear ENCODER`."""

from dataclasses import dataclass
from typing import Any, Literal

from bt_ray.evaluation import protocols
from pipelines.evaluations.classifier import score_columns, train_linear
from pipelines.evaluations.fixed import score_features
from pipelines.evaluations.order import keep_record, open_order, print_scores
from pipelines.evaluations.trained import TrainedOrder


@dataclass(frozen=True, kw_only=True)
class LinearOrder(TrainedOrder):
    """A linear classifier on the frozen encoder (the paper's Table 1).

    `paper` trains it on augmented views for 100 epochs, `small` for 10; `fast` computes the
    features of each image's central view once and fits a logistic regression to them, its penalty
    chosen on a tenth of the training images.
    """

    protocol: Literal["paper", "small", "fast"] = "paper"
    """How the classifier is trained."""


_PROTOCOLS = {"paper": protocols.LINEAR, "small": protocols.LINEAR_SMALL}


def evaluate_linear(order: LinearOrder) -> dict[str, Any]:
    """Makes the evaluation; its record, which is printed, kept in a file and logged to the run."""
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
    columns = score_columns("linear_fast", scores)
    print_scores(order, "Fast linear classifier", columns, scores, LINEAR)
    return keep_record(
        order, "linear-fast", opened, scores, data=opened.data, images_per_s=images_per_s
    )
