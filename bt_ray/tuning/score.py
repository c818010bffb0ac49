"""What trials are compared by: a score of the held-out images, from what probes measured."""

import math
from collections.abc import Mapping
from typing import Literal

Score = Literal["knn_top1", "rankme_cosine"]
"""`knn_top1` where all images have labels; `rankme_cosine` where not: RankMe × the mean cosine
similarity of an image's two views, both of the held-out images. Each alone can be had for nothing:
noise has the highest rank, but views that have nothing in common (cosine 0); a collapsed encoder
has views that agree (cosine 1), but rank 1."""


def read_score(measures: Mapping[str, float], kind: Score) -> float | None:
    """The score that a probe's measures hold; none if they hold none.

    The cosine follows from alignment, the mean squared distance of unit vectors: 1 − alignment / 2.
    """
    if kind == "knn_top1":
        return measures.get("knn/top1")
    rank, alignment = measures.get("held_out/rankme"), measures.get("held_out/alignment")
    if rank is None or alignment is None:
        return None
    return rank * (1 - alignment / 2)


def is_score(score: float | None) -> bool:
    """Whether there is one, and it is finite."""
    return score is not None and math.isfinite(score)
