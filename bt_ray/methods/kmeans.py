"""K-means on the sphere."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from bt_ray.methods.blocks import blocks

_PERTURBATION = 1e-2
"""How far from its twin, on the sphere, the new centroid of an empty cluster is."""


@torch.no_grad()
def spherical_kmeans(
    points: Tensor, num_clusters: int, iterations: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Centroids (K, d) of norm 1, and the nearest one of each point, int64 (M,).

    It begins at K of the points, drawn at random. An iteration assigns each point to the centroid
    with the largest cosine, and moves each centroid to the direction of its points' mean. What is
    returned of the assignments belongs to the last centroids. An empty cluster starts anew beside
    a cluster that is not empty, drawn at random.

    Args:
      points: (M, d) of norm 1.
      generator: on the CPU.
    Source: Caron et al. 2020, appendix D.2, Eq. 11. Empty clusters, which they never met: Caron et
      al. 2018, section 3.3.
    """
    order = torch.randperm(len(points), generator=generator)
    begin = order[torch.arange(num_clusters) % len(points)]
    centroids = points[begin.to(points.device)]
    for _ in range(iterations):
        sums, counts = _sums(points, centroids)
        moved = normalize(sums, dim=1)
        moved = torch.where(sums.norm(dim=1, keepdim=True) > 0, moved, centroids)
        centroids = _reseeded(moved, counts, generator)
    parts = blocks(points, num_clusters)
    return centroids, torch.cat([_nearest(part, centroids) for part in parts])


def _sums(points: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """The sum (K, d) of the points of each cluster, and their number (K,)."""
    sums, counts = torch.zeros_like(centroids), centroids.new_zeros(len(centroids))
    for block in blocks(points, len(centroids)):
        nearest = _nearest(block, centroids)
        sums.index_add_(0, nearest, block)
        counts.index_add_(0, nearest, torch.ones_like(block[:, 0]))
    return sums, counts


def _reseeded(centroids: Tensor, counts: Tensor, generator: torch.Generator) -> Tensor:
    """The centroids with those of empty clusters beside others; draws equally many every time."""
    noise = torch.randn(centroids.shape, generator=generator).to(centroids)
    draws = torch.rand(len(centroids), generator=generator).to(centroids)
    has_points = counts > 0
    rank = has_points.cumsum(0)
    wanted = torch.minimum((draws * rank[-1]).long() + 1, rank[-1])  # draws may round to 1
    chosen = centroids[torch.searchsorted(rank, wanted)]
    beside = normalize(chosen + _PERTURBATION * normalize(noise, dim=1), dim=1)
    return torch.where(has_points[:, None], centroids, beside)


def _nearest(points: Tensor, centroids: Tensor) -> Tensor:
    return (points @ centroids.T).argmax(dim=1)
