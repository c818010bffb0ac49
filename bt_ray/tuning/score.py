"""What trials are compared by: a score of the held-out images, from what probes measured."""

import math
from collections.abc import Mapping
from typing import Literal

from bt_ray.evaluation.score import rank_me_cosine

Score = Literal["knn_top1", "rankme_cosine"]
"""`knn_top1` where all images have labels; `rankme_cosine` where not (`evaluation.score`), of the
held-out images."""


def read_score(measures: Mapping[str, float], kind: Score) -> float | None:
    """The score that a probe's measures hold; none if they hold none."""
    if kind == "knn_top1":
        return measures.get("knn/top1")
    rank, alignment = measures.get("held_out/rankme"), measures.get("held_out/alignment")
    return None if rank is None or alignment is None else rank_me_cosine(rank, alignment)


def is_score(score: float | None) -> bool:
    """Whether there is one, and it is finite."""
    return score is not None and math.isfinite(score)
