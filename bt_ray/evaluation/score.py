"""One number for an encoder, by which probes of a run, or runs, are compared; more is better."""

VALIDATION_SCORE = "validation/score"
"""Measure: the score of a run's validation images (`data.validation`), by its weights."""


def rank_me_cosine(rank_me: float, alignment: float) -> float:
    """RankMe × the mean cosine similarity of an image's two views, for images without labels.

    Each alone can be had for nothing: noise has the highest rank, but views that have nothing in
    common (cosine 0); a collapsed encoder has views that agree (cosine 1), but rank 1. The cosine
    follows from alignment, the mean squared distance of unit vectors: 1 − alignment / 2.
    """
    return rank_me * (1 - alignment / 2)
