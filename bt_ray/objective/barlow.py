"""The Barlow Twins objective of the global batch (paper, Eq. 1 and 2)."""

from collections.abc import Sequence
from typing import assert_never

import torch
import torch.distributed as dist
from torch import Tensor, nn

from bt_ray.distributed.collectives import row_counts
from bt_ray.objective.correlation import correlation_terms
from bt_ray.objective.forms import Form, choose_way
from bt_ray.objective.layouts import column_terms, row_terms
from bt_ray.objective.objective import Objective, weighted
from bt_ray.objective.standardize import EPSILON as EPSILON
from bt_ray.objective.standardize import Statistic, check_pair, widen


class BarlowTwins(nn.Module):
    """The loss of Eq. 1 as a module: `barlow_twins_terms`, the second times λ, added up.

    Args:
      redundancy_weight: λ.
      form, statistic: as for `barlow_twins_terms`.
    """

    def __init__(
        self,
        redundancy_weight: float,
        *,
        form: Form = "auto",
        statistic: Statistic = "correlation",
    ) -> None:
        super().__init__()
        self.redundancy_weight = redundancy_weight
        self.form = form
        self.statistic = statistic

    def forward(self, z_a: Tensor, z_b: Tensor, counts: Sequence[int] | None = None) -> Objective:
        """The objective of two batches of embeddings (n, D); `counts`: every worker's n."""
        terms = barlow_twins_terms(
            z_a, z_b, form=self.form, statistic=self.statistic, counts=counts
        )
        return weighted(*terms, self.redundancy_weight)


def barlow_twins_loss(
    z_a: Tensor,
    z_b: Tensor,
    lambda_: float,
    *,
    form: Form = "auto",
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """Barlow Twins loss of two batches of embeddings.

    Args:
      z_a, z_b: (n, D) float; row i of both from the same image; n is per worker.
      lambda_: weight of the redundancy-reduction term, > 0.
      form: how it is computed (`barlow_twins_terms`); the loss is the same, to rounding.
      group: the workers that hold the rest of the global batch; all by default.
    Returns: scalar, identical on every worker.
    Raises: ValueError if the shapes differ.
    Source: Zbontar et al. 2021, Eq. 1 (loss), Eq. 2 (c).
    """
    on_diagonal, off_diagonal = barlow_twins_terms(z_a, z_b, form=form, group=group)
    return on_diagonal + lambda_ * off_diagonal


def barlow_twins_terms(
    z_a: Tensor,
    z_b: Tensor,
    *,
    form: Form = "auto",
    group: dist.ProcessGroup | None = None,
    statistic: Statistic = "correlation",
    counts: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """The invariance term and the unweighted redundancy-reduction term of Eq. 1.

    Autocast is switched off in here: the arithmetic is float32, or float64 if the embeddings are.

    Args:
      z_a, z_b: (n, D) float; row i of both from the same image; n is per worker.
      form: "correlation" computes C (D×D); "gram" computes two N×N matrices and never C; "auto"
        takes the one that `forms.choose_way` expects to be faster.
      group: the workers that hold the rest of the global batch; all by default.
      statistic: "correlation": C is the cross-correlation of Eq. 2; "covariance": C is the
        cross-covariance, whose embeddings are only centred (Table 5, "no Normalization");
        "moment": C is Z_Aᵀ Z_B / N of the embeddings as they are.
      counts: every worker's n, by rank, if they are known: asking waits for the device.
    Returns: two scalars, identical on every worker.
    Raises: ValueError if the shapes differ.
    """
    check_pair(z_a, z_b)
    counts = row_counts(z_a, group) if counts is None else counts
    way = choose_way(
        form, num_samples=sum(counts), num_dimensions=z_a.shape[1], num_workers=len(counts)
    )
    with torch.autocast(z_a.device.type, enabled=False):
        if way == "correlation":
            return correlation_terms(*widen(z_a, z_b), sum(counts), group, statistic)
        if way == "gram_rows":
            return row_terms(z_a, z_b, counts, group, statistic)
        if way == "gram_columns":
            return column_terms(z_a, z_b, counts, group, statistic)
        assert_never(way)
