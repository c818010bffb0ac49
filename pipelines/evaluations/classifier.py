"""A linear classifier trained on the frozen encoder, as `linear` and `transfer` do."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipelines.evaluations.order import UNTRAINED, keep_record, open_order, print_scores
from pipelines.evaluations.trained import TrainedOrder, check_images, train_one

if TYPE_CHECKING:
    from bt_ray.evaluation.protocols import Protocol
    from bt_ray.evaluation.published import Published


def train_linear(
    order: TrainedOrder,
    protocol: "Protocol",
    name: str,
    title: str,
    published: "Sequence[Published]",
) -> dict[str, Any]:
    """Trains a linear classifier on the frozen encoder, prints its scores and keeps its record.

    Args:
      name: what the names of the scores begin with.
      title: the table's title.
      published: scores to print below.
    Returns: the record.
    """
    from bt_ray.checkpoints.start import untrained

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
    print_scores(order, title, score_columns(name, scores), scores, published)
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


def score_columns(name: str, scores: Mapping[str, float]) -> dict[str, str]:
    """Name of a score → its heading, of those of top-1 and top-5 accuracy that there are.

    Args:
      name: what the names of the scores begin with.
    """
    columns = {f"{name}_{score}": score for score in ("top1", "top5")}
    return {column: heading for column, heading in columns.items() if column in scores}
