"""How a method's scores differ from another's, seed by seed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from scipy.stats import ttest_1samp

from bt_ray.ablations.ablate import Row

WEAK_PAIRS = 3
"""Of so many pairs or fewer, a p says little: few degrees of freedom, wide tails."""
_ROUNDING = 1e-12
"""Scores that differ by less are the same."""


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """The differences of paired scores, each of one seed."""

    difference: float
    """Mean, the first one's score subtracted."""
    spread: float | None
    """Their standard deviation; none of a single pair."""
    p: float | None
    """Of a two-sided paired t-test that the mean is 0; none of a single pair, and of pairs that all
    differ by the same, which leave no variance to test by."""
    pairs: int

    @property
    def is_weak(self) -> bool:
        """Whether there are too few pairs to lean on `p`."""
        return self.pairs <= WEAK_PAIRS


def contrast(scores: Mapping[int, float], of_first: Mapping[int, float]) -> Contrast | None:
    """How `scores` differ from the first one's; none if they have no seed in common.

    Args:
      scores, of_first: seed → score.
    """
    seeds = sorted(scores.keys() & of_first.keys())
    if not seeds:
        return None
    differences = [scores[seed] - of_first[seed] for seed in seeds]
    return Contrast(
        difference=mean(differences),
        spread=stdev(differences) if len(seeds) > 1 else None,
        p=_p(differences),
        pairs=len(seeds),
    )


def by_seed(row: Row, name: str) -> dict[int, float]:
    """Seed → this score, of the results that have it."""
    return {result.seed: result.scores[name] for result in row.results if name in result.scores}


def _p(differences: Sequence[float]) -> float | None:
    if max(differences) - min(differences) < _ROUNDING:
        return None
    return float(ttest_1samp(differences, 0.0).pvalue)
