"""A linear classifier on the frozen encoder: `python -m pipelines.evaluate linear ENCODER`."""

from dataclasses import dataclass
from typing import Any, Literal

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
    return _fit_features(order) if order.protocol == "fast" else _train(order)


def _fit_features(order: LinearOrder) -> dict[str, Any]:
    from bt_ray.evaluation.linear import Linear
    from bt_ray.evaluation.published import LINEAR

    opened = open_order(order)
    scores, images_per_s = score_features(
        order, opened, Linear(order.seed), "linear", order.workers
    )
    columns = {"linear_fast_top1": "top1", "linear_fast_top5": "top5"}
    print_scores(order, "Linear classifier, fast,", _present(columns, scores), scores, LINEAR)
    return keep_record(order, "linear-fast", opened, scores, images_per_s=images_per_s)


def _train(order: LinearOrder) -> dict[str, Any]:
    from bt_ray.evaluation.published import LINEAR
    from bt_ray.model.pretrained import untrained

    opened = open_order(order)
    check_images(order, opened.train, opened.test)
    protocol = order.adapted(_PROTOCOLS[order.protocol])
    encoders = {"": opened.pretrained}
    if order.baseline:
        encoders[UNTRAINED] = untrained(opened.pretrained)
    done = {
        suffix: train_one(order, opened, encoder, protocol, opened.train, f"linear{suffix}")
        for suffix, encoder in encoders.items()
    }
    scores = {
        f"linear_{score}{suffix}": value
        for suffix, found in done.items()
        for score, value in found.scores.items()
    }
    columns = {"linear_top1": "top1", "linear_top5": "top5"}
    print_scores(order, "Linear classifier", _present(columns, scores), scores, LINEAR)
    return keep_record(
        order,
        "linear",
        opened,
        scores,
        images_per_s=done[""].images_per_s,
        more={
            "steps": done[""].steps,
            "encoder_sha256": {"before": done[""].encoder_before, "after": done[""].encoder_after},
        },
        files=[done[""].metrics],
    )


def _present(columns: dict[str, str], scores: dict[str, float]) -> dict[str, str]:
    return {name: heading for name, heading in columns.items() if name in scores}
