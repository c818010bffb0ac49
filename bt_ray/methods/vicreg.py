"""VICReg: views agree, dimensions vary and do not covary (Bardes, Ponce and LeCun 2022)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from bt_ray.distributed.collectives import sum_for_replicas
from bt_ray.methods.learner import Embedded, Outcome
from bt_ray.methods.pretraining import PretrainingLearner
from bt_ray.methods.rows import mean_of_rows, spread_of_rows
from bt_ray.objective.barlow import barlow_twins_terms
from bt_ray.objective.forms import Form
from bt_ray.objective.standardize import center, widen

EPSILON = 1e-4
"""ε of Eq. 2, added to each variance; their section 4.2."""
LEAST_DEVIATION = 1.0
"""γ of Eq. 1, the deviation below which a dimension costs something; their section 4.2."""


class VicregLearner(PretrainingLearner):
    """The sum of invariance, variance and covariance terms, each with its weight (Eq. 6).

    All statistics are those of the global batch. `objective.form` says how the covariances are
    computed, as it does for Barlow Twins.
    """

    def objective(self, embedded: Embedded) -> Outcome:
        """The loss of the embeddings, computed outside autocast, and its three terms."""
        with self.autocast():
            z_a, z_b = self.module.project(*embedded)
        given = self.settings.objective
        weights = given.vicreg
        invariance, variance, covariance = vicreg_terms(z_a, z_b, self.rows, given.form)
        loss = (
            weights.invariance_weight * invariance
            + weights.variance_weight * variance
            + weights.covariance_weight * covariance
        )
        terms = {
            "invariance": invariance.detach(),
            "variance": variance.detach(),
            "covariance": covariance.detach(),
            "spread": spread_of_rows(z_a, sum(self.rows)),
        }
        return Outcome(loss, terms, (z_a, z_b))


def vicreg_terms(
    z_a: Tensor, z_b: Tensor, counts: Sequence[int], form: Form = "auto"
) -> tuple[Tensor, Tensor, Tensor]:
    """s(Z, Z'), v(Z) + v(Z') and c(Z) + c(Z') of two views' embeddings.

    Two deviations. The mean square of s is over dimensions, too, as in the authors' Algorithm 1
    and code: Eq. 5, which has no 1/D, would make it outweigh the others by the width of the
    embedding. And v and v' are added up, as in Eq. 6 and Algorithm 1; the authors' code halves
    that sum, so its weight of 25 is 12.5 here.

    Args:
      z_a, z_b: (n, D) float, of this worker's rows; computed in float32 or better.
      counts: every worker's n; N is their sum, at least 2.
      form: how the covariances are computed (`barlow.barlow_twins_terms`).
    Returns: three scalars, identical on every worker.
    Source: Bardes, Ponce and LeCun 2022, Eq. 1 and 2 (v), 3 and 4 (c), 5 (s).
    """
    num_rows = sum(counts)
    with torch.autocast(z_a.device.type, enabled=False):
        a, b = widen(z_a, z_b)
        invariance = mean_of_rows((a - b).square().mean(1), num_rows)
        variance = _variance(a, num_rows) + _variance(b, num_rows)
    covariance = _covariance(a, counts, form) + _covariance(b, counts, form)
    return invariance, variance, covariance


def _variance(z: Tensor, num_rows: int) -> Tensor:
    """v(Z), Eq. 1: how far deviations are below γ, on average over the dimensions."""
    squares = sum_for_replicas(center(z, num_rows).square().sum(0))
    deviation = (squares / (num_rows - 1) + EPSILON).sqrt()
    return (LEAST_DEVIATION - deviation).relu().mean()


def _covariance(z: Tensor, counts: Sequence[int], form: Form) -> Tensor:
    """c(Z), Eq. 4: squares of the covariances of different dimensions, added up, over D.

    That is the redundancy term of Barlow Twins for one view's covariances with itself, which are
    divided by N there and by N − 1 in Eq. 3.
    """
    num_rows = sum(counts)
    _, off_diagonal = barlow_twins_terms(z, z, form=form, statistic="covariance", counts=counts)
    return off_diagonal * (num_rows / (num_rows - 1)) ** 2 / z.shape[1]
