"""K-means on the sphere: what a naive loop finds, and clusters that become empty."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from bt_ray.methods import blocks
from bt_ray.methods.kmeans import spherical_kmeans


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(4)


def _naive(points: Tensor, num_clusters: int, iterations: int) -> tuple[Tensor, Tensor]:
    """A point at a time; clusters must not become empty."""
    order = torch.randperm(len(points), generator=_seeded())
    centroids = [points[order[k]] for k in range(num_clusters)]
    for _ in range(iterations):
        members: list[list[Tensor]] = [[] for _ in centroids]
        for point in points:
            cosines = [float(point @ centroid) for centroid in centroids]
            members[cosines.index(max(cosines))].append(point)
        means = [torch.stack(cluster).mean(dim=0) for cluster in members]
        centroids = [mean / mean.norm() for mean in means]
    nearest = torch.stack([(torch.stack(centroids) @ point).argmax() for point in points])
    return torch.stack(centroids), nearest


def test_centroids_are_those_of_a_naive_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """With blocks that do not divide the points."""
    points = normalize(torch.randn(50, 4).double(), dim=1)
    monkeypatch.setattr(blocks, "_BLOCK_ELEMENTS", 40)
    for iterations in (0, 1, 4):
        centroids, nearest = spherical_kmeans(points, 5, iterations, _seeded())
        expected, their_nearest = _naive(points, 5, iterations)
        torch.testing.assert_close(centroids, expected, rtol=1e-12, atol=1e-12)
        assert torch.equal(nearest, their_nearest)


def test_empty_clusters_begin_anew_beside_others() -> None:
    """Forty times the same point: all but one cluster are empty. With them, two groups split."""
    same = normalize(torch.ones(40, 3), dim=1)
    centroids, nearest = spherical_kmeans(same, 4, 3, _seeded())
    assert centroids.isfinite().all()
    torch.testing.assert_close(centroids.norm(dim=1), torch.ones(4))
    assert (centroids @ same[0] > 0.999).all()
    assert len(torch.unique(centroids, dim=0)) == 4
    assert nearest.shape == (40,)


def test_fewer_points_than_clusters_are_enough() -> None:
    """Each point is then a centroid."""
    points = torch.eye(3)
    centroids, nearest = spherical_kmeans(points, 5, 5, _seeded())
    torch.testing.assert_close(centroids[nearest], points, atol=0.02, rtol=0)
