"""kNN: `python -m pipelines.evaluate knn ENCODER`."""

from dataclasses import dataclass, replace
from typing import Any

from bt_ray.errors import SettingsError
from pipelines.evaluations.fixed import score_features
from pipelines.evaluations.order import ImagesOrder, keep_record, open_order, print_scores


@dataclass(frozen=True, kw_only=True)
class KnnOrder(ImagesOrder):
    """Weighted k-nearest-neighbour classification by cosine similarity, exact."""

    neighbors: int | None = None
    """k; none: the least of the square root of the training images' number, half the images that
    a class has of them on average, and 200."""
    temperature: float = 0.1
    """Temperature of the neighbours' votes, exp(cosine / temperature)."""
    workers: int = 0
    """Actors of Ray Data that compute the features; 0: this process."""

    def __post_init__(self) -> None:
        if self.neighbors is not None and self.neighbors < 1:
            raise SettingsError(f"--neighbors {self.neighbors} must be at least 1.")


def evaluate_knn(order: KnnOrder) -> dict[str, Any]:
    """Makes the evaluation; its record, which is printed, kept in a file and logged to the run."""
    from bt_ray.evaluation.knn import Knn, choose_neighbors
    from bt_ray.evaluation.labelled import read_labels
    from bt_ray.evaluation.published import KNN

    opened = open_order(order)
    k = order.neighbors or choose_neighbors(read_labels(opened.train))
    order, method = replace(order, neighbors=k), Knn(k, order.temperature)
    scores, images_per_s = score_features(order, opened, method, "knn", order.workers)
    print_scores(order, f"kNN (k = {k})", {"knn_top1": "top1"}, scores, KNN)
    return keep_record(order, "knn", opened, scores, data=opened.data, images_per_s=images_per_s)
