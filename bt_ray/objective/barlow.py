"""The Barlow Twins objective of the global batch (paper, Eq. 1 and 2)."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from bt_ray.collectives import sum_for_replicas, sum_over_workers

EPSILON = 1e-5
"""Added to each variance, as batch norm does; Eq. 2 has none and is undefined for a constant
dimension, which thus gets correlation 0 and no gradient that is not finite."""


@dataclass(frozen=True)
class Objective:
    """A loss to minimise and, for people, its terms without gradient; all scalars."""

    loss: Tensor
    terms: dict[str, Tensor]


class BarlowTwins(nn.Module):
    """`barlow_twins_terms`, weighed and added up."""

    def __init__(self, redundancy_weight: float) -> None:
        super().__init__()
        self.redundancy_weight = redundancy_weight

    def forward(self, z_a: Tensor, z_b: Tensor) -> Objective:
        """The objective of two batches of embeddings (n, D)."""
        on_diagonal, off_diagonal = barlow_twins_terms(z_a, z_b)
        return Objective(
            loss=on_diagonal + self.redundancy_weight * off_diagonal,
            terms={"on_diagonal": on_diagonal.detach(), "off_diagonal": off_diagonal.detach()},
        )


def barlow_twins_loss(
    z_a: Tensor, z_b: Tensor, lambda_: float, *, group: dist.ProcessGroup | None = None
) -> Tensor:
    """Barlow Twins loss of two batches of embeddings.

    Args:
      z_a, z_b: (n, D) float; row i of both from the same image; n is per worker.
      lambda_: weight of the redundancy-reduction term, > 0.
      group: the workers that hold the rest of the global batch; all by default.
    Returns: scalar, identical on every worker.
    Raises: ValueError if the shapes differ.
    Source: Zbontar et al. 2021, Eq. 1 (loss), Eq. 2 (c).
    """
    on_diagonal, off_diagonal = barlow_twins_terms(z_a, z_b, group=group)
    return on_diagonal + lambda_ * off_diagonal


def barlow_twins_terms(
    z_a: Tensor, z_b: Tensor, *, group: dist.ProcessGroup | None = None
) -> tuple[Tensor, Tensor]:
    """The invariance term and the unweighted redundancy-reduction term of Eq. 1.

    Computed in float32, or float64 if the embeddings are, whatever the autocast around it.
    """
    if z_a.shape != z_b.shape or z_a.dim() != 2:
        raise ValueError(
            f"The embeddings must be two matrices of one shape, not {tuple(z_a.shape)} "
            f"and {tuple(z_b.shape)}."
        )
    with torch.autocast(z_a.device.type, enabled=False):
        wide = torch.promote_types(z_a.dtype, torch.float32)
        num_rows = sum_over_workers(z_a.new_tensor(len(z_a), dtype=wide), group)
        z_a, z_b = (standardize(z.to(wide), num_rows, group) for z in (z_a, z_b))
        c = sum_for_replicas(z_a.T @ z_b / num_rows, group)
        diagonal = c.diagonal()
        on_diagonal = (1 - diagonal).square().sum()
        off_diagonal = c.square().sum() - diagonal.square().sum()
        return on_diagonal, off_diagonal


def standardize(z: Tensor, num_rows: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """`z` (n, D) with mean 0 and variance 1 of each dimension over the global batch.

    The variance is the biased one, so that a dimension's correlation with itself is 1.
    """
    centered = z - sum_over_workers(z.sum(0), group) / num_rows
    variance = sum_over_workers(centered.square().sum(0), group) / num_rows
    return centered * torch.rsqrt(variance + EPSILON)
