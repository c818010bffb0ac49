"""kNN: `python -m pipelines.evaluate knn ENCODER`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.evaluations.fixed import score_features
from pipelines.evaluations.order import ImagesOrder, keep_record, open_order, print_scores

if TYPE_CHECKING:
    from bt_ray.evaluation.frozen import Method


@dataclass(frozen=True, kw_only=True)
class KnnOrder(ImagesOrder):
    """Weighted k-nearest-neighbour classification by cosine similarity, exact."""

    neighbors: int = 200
    """k."""
    temperature: float = 0.1
    """Temperature of the neighbours' votes, exp(cosine / temperature)."""
    workers: int = 0
    """Actors of Ray Data that compute the features; 0: this process."""

    def method(self) -> "Method":
        """How features are scored."""
        from bt_ray.evaluation.knn import Knn

        return Knn(self.neighbors, self.temperature)


def evaluate_knn(order: KnnOrder) -> dict[str, Any]:
    """Makes the evaluation; its record, which is printed, kept in a file and logged to the run."""
    from bt_ray.evaluation.published import KNN

    opened = open_order(order)
    scores, images_per_s = score_features(order, opened, order.method(), "knn", order.workers)
    print_scores(order, "kNN", {"knn_top1": "top1"}, scores, KNN)
    return keep_record(order, "knn", opened, scores, data=opened.data, images_per_s=images_per_s)
