"""Codes of a batch: which prototypes its embeddings are assigned to, softly and evenly."""

import math

import torch
from torch import Tensor

from bt_ray.methods.blocks import blocks

_TOLERANCE = 0.01
"""Labels of all images are found where each prototype's sum differs by less than this share."""
_ROUNDS = 5
"""Values of λ on the way to the last."""


@torch.no_grad()
def sinkhorn(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Codes Q (B, K): each row sums to 1, each column to about B / K.

    Q is exp(scores / ε) whose columns and rows are scaled in turn, the rows last. It is computed
    with logarithms, so that no score is too large for an exponential.

    Args:
      scores: (B, K) of any floating type, cosines of embeddings and prototypes.
      epsilon: ε, how smooth the codes are, > 0.
      iterations: how often columns and rows are scaled; the more, the more even the columns.
    Returns: codes in float32, or in float64 if the scores are.
    Source: Caron et al. 2020, Eq. 3 to 5 and appendix A; Cuturi 2013.
    """
    log_codes = scores.to(torch.promote_types(scores.dtype, torch.float32)) / epsilon
    for _ in range(iterations):
        log_codes = log_codes - log_codes.logsumexp(dim=0, keepdim=True)
        log_codes = log_codes - log_codes.logsumexp(dim=1, keepdim=True)
    return log_codes.exp()


@torch.no_grad()
def balanced_labels(
    embeddings: Tensor, prototypes: Tensor, sharpness: float, iterations: int
) -> Tensor:
    """The label, below K, of each of M images, about M / K images with each label.

    The transport Q (M, K) is diag(u) exp(sharpness · embeddings · prototypesᵀ) diag(v), with rows
    that sum to 1 / M and columns that sum to 1 / K; a label is the largest entry of a row. Neither
    the exponentials nor Q are ever in memory: they are computed again in each iteration, a block of
    rows at a time, and u (M) follows from v (K), which is all that is kept.

    Deviation: it begins with a sixteenth of λ, and doubles it, and with it the logarithm of v, four
    times. It comes to the same Q. With λ = 250 from the beginning, the labels of random points were
    still up to 23 % too rare after a hundred iterations; like this, up to 2 %.

    Args:
      embeddings: (M, d), prototypes: (K, d), of one floating type.
      sharpness: λ, > 0: the larger, the nearer is Q to its labels.
      iterations: at most so many, a fifth of them with each λ; with each it ends where all columns'
        sums are right within 1 %.
    Returns: int64 (M,).
    Source: Asano et al. 2020, Eq. 5 and 6 and Algorithm 1, in logarithms; the growing λ:
      Schmitzer 2019 (ε-scaling).
    """
    log_v = embeddings.new_zeros(len(prototypes))
    for doublings in reversed(range(_ROUNDS)):
        scaled = prototypes * (sharpness / 2**doublings)
        log_v = _balanced(embeddings, scaled, 2 * log_v, math.ceil(iterations / _ROUNDS))
    parts = blocks(embeddings, len(prototypes))
    return torch.cat([(part @ scaled.T + log_v).argmax(dim=1) for part in parts])


def _balanced(embeddings: Tensor, scaled: Tensor, log_v: Tensor, iterations: int) -> Tensor:
    """The logarithm of v (K,) with which the columns' sums are right, from one that is near it.

    Args:
      scaled: λ · prototypes (K, d).
    """
    least = torch.finfo(log_v.dtype).tiny
    for _ in range(iterations):
        sums = _column_sums(embeddings, scaled, log_v)
        if bool((sums - 1).abs().max() < _TOLERANCE):
            break
        log_v = log_v - sums.clamp(min=least).log()
    return log_v


def _column_sums(embeddings: Tensor, scaled: Tensor, log_v: Tensor) -> Tensor:
    """Sums (K,) of K · Q's columns, with u such that the rows' sums are right; each should be 1.

    A row of M · Q is then a softmax.
    """
    total = torch.zeros_like(log_v)
    for block in blocks(embeddings, len(scaled)):
        total += torch.addmm(log_v, block, scaled.T).softmax(dim=1).sum(dim=0)
    return total * (len(scaled) / len(embeddings))
