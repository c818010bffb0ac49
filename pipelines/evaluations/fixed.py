"""Evaluations that compute features once and learn from them."""

import time
from typing import TYPE_CHECKING

from pipelines.evaluations.order import UNTRAINED, ImagesOrder, Opened
from pipelines.terminal import console

if TYPE_CHECKING:
    from bt_ray.evaluation.frozen import Method
    from bt_ray.model.pretrained import Pretrained


def score_features(
    order: ImagesOrder, opened: Opened, method: "Method", name: str, workers: int
) -> tuple[dict[str, float], float]:
    """The scores of the encoder and of the untrained one, and images encoded a second.

    Progress is shown.

    Args:
      name: of the evaluation, for people.
      workers: Ray Data's actors that compute the features; 0: this process.
    """
    from bt_ray.checkpoints.start import untrained

    began = time.perf_counter()
    scores = _score(order, opened, opened.pretrained, method, name, workers)
    if order.baseline:
        other = _score(
            order,
            opened,
            untrained(opened.pretrained),
            method,
            f"{name}, before pretraining",
            workers,
        )
        scores |= {f"{score}{UNTRAINED}": value for score, value in other.items()}
    seconds = time.perf_counter() - began
    return scores, opened.num_images * (1 + order.baseline) / seconds


def _score(
    order: ImagesOrder,
    opened: Opened,
    pretrained: "Pretrained",
    method: "Method",
    name: str,
    workers: int,
) -> dict[str, float]:
    from bt_ray.evaluation.features import compute_features
    from bt_ray.evaluation.frozen import score_frozen
    from bt_ray.training.local import choose_device

    compute = compute_features
    if workers:
        from functools import partial

        from bt_ray.evaluation.features_on_ray import compute_on_ray

        compute = partial(compute_on_ray, workers=workers)
    with console.status("") as status:
        return score_frozen(
            pretrained,
            opened.train,
            opened.test,
            method,
            device=choose_device(opened.given),
            compute=compute,
            most_shared=order.most_shared,
            on_progress=lambda done: status.update(
                f"{name}: {done:,} of {opened.num_images:,} images"
            ),
        )
