"""Maps keep together what is alike; neighbours are those of the whole matrix."""

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import KNeighborsClassifier

from bt_ray.report.look import Look, alike, place


def clusters(count: int, *, num_features: int = 16) -> tuple[torch.Tensor, np.ndarray]:
    """`count` points around each of four directions."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(4, num_features, generator=generator)
    labels = np.repeat(np.arange(4), count)
    noise = 0.1 * torch.randn(4 * count, num_features, generator=generator)
    return centres[torch.from_numpy(labels)] + noise, labels


@pytest.mark.parametrize(("count", "method"), [(7, "PCA"), (40, "t-SNE")])
def test_a_map_keeps_clusters_together_and_is_the_same_again(count: int, method: str) -> None:
    features, labels = clusters(count)
    places, called = place(features)
    assert called == method
    assert places.shape == (4 * count, 2)
    assert KNeighborsClassifier(3).fit(places, labels).score(places, labels) > 0.95
    np.testing.assert_array_equal(place(features)[0], places)


@pytest.mark.parametrize("count", [1, 2, 3, 31])
def test_a_few_images_have_a_map_too(count: int) -> None:
    places, _ = place(torch.randn(count, 5, generator=torch.Generator().manual_seed(1)))
    assert places.shape == (count, 2)
    assert np.isfinite(places).all()


def test_neighbors_of_one_image_of_each_class() -> None:
    features, labels = clusters(5)
    look = Look(np.zeros((20, 8, 8, 3), np.uint8), features, labels, ("a", "b", "c", "d"), "")
    found = alike(look, 6, 3)
    assert [likeness.query for likeness in found] == [0, 5, 10, 15, 1, 6]
    cosines = cosine_similarity(features)
    np.fill_diagonal(cosines, -2)
    for likeness in found:
        order = np.argsort(-cosines[likeness.query])[:3]
        assert likeness.neighbors == tuple(order)
        np.testing.assert_allclose(likeness.similarities, cosines[likeness.query, order], atol=1e-5)


def test_fewer_images_than_neighbors() -> None:
    features, _ = clusters(1)
    look = Look(np.zeros((4, 8, 8, 3), np.uint8), features, np.full(4, -1), (), "")
    assert [likeness.query for likeness in alike(look, 6, 6)] == [0, 1, 2, 3]
    assert all(len(likeness.neighbors) == 3 for likeness in alike(look, 6, 6))
