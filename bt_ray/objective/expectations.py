"""What the terms of the Barlow Twins loss can be, from N samples and D dimensions alone.

A column of standardised embeddings, over √N, is a vector of length 1 in M = N − 1 dimensions
(centring takes one away), and C_ij is the product of column i of one view with column j of the
other. Everything below follows from that. ε of `standardize` is left out: it makes C a little
smaller, which matters for nearly constant dimensions only, and the bounds that hold for any C hold
with it too.
"""

import math
from dataclasses import dataclass

_TOLERANCE = 0.01
"""By what share of the least possible loss a loss may lie below it, for rounding (ours)."""
_UNMATCHED = 0.9
"""The views count as unmatched if `on_diagonal` is at least this share of D, which means
correlations of about 0.05 (ours)."""
_COLLAPSED_RANK = 2.0
_COLLAPSED_SHARE = 0.02
"""An effective rank below 2, or below 2 % of the highest possible, counts as collapse (ours)."""


@dataclass(frozen=True, kw_only=True)
class Terms:
    """Both terms of the loss, unweighted, and their standard deviations where they are random."""

    on_diagonal: float
    off_diagonal: float
    on_deviation: float = 0.0
    off_deviation: float = 0.0

    def loss(self, lambda_: float) -> float:
        """Eq. 1 of the paper."""
        return self.on_diagonal + lambda_ * self.off_diagonal

    def loss_deviation(self, lambda_: float) -> float:
        """Standard deviation of `loss`; the random terms are not correlated."""
        return math.hypot(self.on_deviation, lambda_ * self.off_deviation)


def random_terms(num_samples: int, num_dimensions: int) -> Terms:
    """The terms to expect if the rows of one view are unrelated to those of the other.

    The means are exact for any embeddings whose rows are paired at random: over all pairings
    of two columns a correlation has mean 0 and variance 1/M. The deviations are exact for
    independent Gaussian entries: then any two entries of C are independent, and C_ij² follows
    Beta(1/2, (M − 1)/2), whose variance is 2(M − 1)/(M²(M + 2)).

    Args:
      num_samples: N of the global batch, at least 2.
      num_dimensions: D.
    """
    m, d = num_samples - 1, num_dimensions
    variance_of_square = 2 * (m - 1) / (m**2 * (m + 2))
    return Terms(
        on_diagonal=d * (1 + 1 / m),
        off_diagonal=d * (d - 1) / m,
        on_deviation=math.sqrt(d * (4 / m + variance_of_square)),
        off_deviation=math.sqrt(d * (d - 1) * variance_of_square),
    )


def off_diagonal_of_rank(num_dimensions: int, rank: float) -> float:
    """`off_diagonal` of matched views whose correlation matrix has `rank` equal eigenvalues.

    They add up to D, its diagonal; so the squares of all entries add up to rank × (D/rank)², of
    which D lie on the diagonal. The least for a matrix of that rank. Rank 1 is total collapse,
    D(D − 1): no embeddings have more.
    """
    return num_dimensions**2 / rank - num_dimensions


def effective_rank(off_diagonal: float, num_dimensions: int) -> float:
    """The rank r that `off_diagonal_of_rank` needs for this term: D² / (off_diagonal + D).

    Where both views agree (`on_diagonal` ≪ D) it is the participation ratio of the eigenvalues
    of C, from 1 to min(N − 1, D). Where they do not, it tells one thing only: the geometric mean
    of both views' own participation ratios is at most r / (1 − r/D), as
    ‖UᵀV‖² ≤ ‖UᵀU‖ ‖VᵀV‖ (Frobenius). So a small r is always collapse; a large one proves nothing.
    """
    return num_dimensions**2 / (off_diagonal + num_dimensions)


def least_off_diagonal(num_samples: int, num_dimensions: int) -> float:
    """The least `off_diagonal` that N samples allow where every C_ii is 1: rank C ≤ N − 1."""
    return max(0.0, off_diagonal_of_rank(num_dimensions, num_samples - 1))


def optimal_terms(num_samples: int, num_dimensions: int, lambda_: float) -> Terms:
    """The terms at the least loss that any embeddings of N samples can have, for λ ≤ 1.

    With D ≤ M all is 0. Else let t = tr C. By Cauchy-Schwarz Σ C_ii² ≥ t²/D and, C having rank M
    at most, Σ C_ij² ≥ t²/M. Thus loss = D − 2t + (1 − λ) Σ C_ii² + λ Σ C_ij² is at least
    D − 2t + t² ((1 − λ)/D + λ/M), which is least at t = D M / (M + λ(D − M)). Equality takes
    C = (t/M) × a projector with a constant diagonal; for N ≥ 4 there are embeddings with this C.
    """
    m, d = num_samples - 1, num_dimensions
    c = m / (m + lambda_ * max(0, d - m))
    off_diagonal = c**2 * least_off_diagonal(num_samples, num_dimensions)
    return Terms(on_diagonal=d * (1 - c) ** 2, off_diagonal=off_diagonal)


def least_loss(num_samples: int, num_dimensions: int, lambda_: float) -> float:
    """A bound that no loss can lie under, whatever the embeddings; reached for λ ≤ 1, N ≥ 4.

    For λ > 1 it is the bound for λ = 1, D − M: the loss grows with λ.
    """
    weight = min(lambda_, 1.0)
    return optimal_terms(num_samples, num_dimensions, weight).loss(weight)


def band(num_samples: int, num_dimensions: int, lambda_: float) -> tuple[float, float]:
    """The losses of a healthy run after its first epochs: from the floor to the random value.

    The floor is a fact. The upper end is a reading aid: an untrained network's embeddings have a
    low rank, and their loss can lie above it.
    """
    random = random_terms(num_samples, num_dimensions)
    return least_loss(num_samples, num_dimensions, lambda_), random.loss(lambda_)


def warning(
    on_diagonal: float,
    off_diagonal: float,
    num_samples: int,
    num_dimensions: int,
    lambda_: float,
) -> str | None:
    """One sentence on what is wrong with these finite terms of a trained network, or None."""
    loss = on_diagonal + lambda_ * off_diagonal
    floor, _ = band(num_samples, num_dimensions, lambda_)
    if loss < (1 - _TOLERANCE) * floor - 1e-4 * num_dimensions:
        return (
            f"train/loss={loss:.4g} is below {floor:.4g}, the least that N={num_samples} and "
            f"D={num_dimensions} allow: N is not the global batch's, or this is a bug."
        )
    possible = min(num_samples - 1, num_dimensions)
    rank = effective_rank(off_diagonal, num_dimensions)
    if rank < min(max(_COLLAPSED_RANK, _COLLAPSED_SHARE * possible), possible / 2):
        return (
            f"The embeddings are collapsing: train/off_diagonal={off_diagonal:.4g} means an "
            f"effective rank of {rank:.1f} of {possible}; try a higher "
            "objective.redundancy_weight or a lower optimizer.weight_rate."
        )
    if on_diagonal >= _UNMATCHED * num_dimensions:
        return (
            f"The views are not being matched: train/on_diagonal={on_diagonal:.4g}, and "
            f"{num_dimensions} is the value of constant embeddings, about that of random ones; try "
            "a lower objective.redundancy_weight, milder views or another optimizer.weight_rate."
        )
    return None
