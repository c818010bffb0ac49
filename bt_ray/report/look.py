"""How an encoder sees some images: a map of them, and which of them it finds alike."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from torch import Tensor

from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.views.depth import to_levels
from bt_ray.errors import DataError
from bt_ray.evaluation.images import load_images
from bt_ray.evaluation.knn import nearest
from bt_ray.model.inputs import normalize
from bt_ray.model.pretrained import Pretrained

_BLOCK = 64
_FEWEST_FOR_TSNE = 30
_PERPLEXITY = 30
_PCA_DIMENSIONS = 50


@dataclass(frozen=True)
class Look:
    """Some images and their representations.

    `pixels` is uint8 (n, px, px, 3); `features` float32 (n, F); `labels` int64 (n,), −1 for an
    image without label; `which` says which images they are, such as "500 held-out images".
    """

    pixels: NDArray[np.uint8]
    features: Tensor
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    which: str


@torch.inference_mode()
def look_at(pretrained: Pretrained, most_images: int) -> Look:
    """The first images of the run's held-out ones, or else of its training ones, encoded.

    Args:
      most_images: images at most.
    Raises: DataError if the images are missing, or none of them can be decoded.
    """
    settings = pretrained.settings
    held_out = settings.data.test is not None
    shards = ShardSet.open(settings.data.test or settings.data.train)
    manifest = shards.manifest
    groups = -(-min(manifest.num_rows, most_images) // manifest.rows_per_row_group)
    images = load_images(shards.read(np.arange(groups)), settings)
    pixels, labels = images.pixels[:most_images], images.labels[:most_images]
    if not len(pixels):
        raise DataError(f"No image in {shards.root!r} can be decoded.")
    features = [
        pretrained.encoder(normalize(block, settings.data)).float()
        for block in pixels.split(_BLOCK)
    ]
    return Look(
        _pictures(pixels.permute(0, 2, 3, 1).numpy()),
        torch.cat(features),
        labels.numpy(),
        manifest.classes,
        f"{len(pixels):,} {'held-out' if held_out else 'training'} images",
    )


def _pictures(levels: NDArray[Any]) -> NDArray[np.uint8]:
    """Images (n, px, px, 3) for people of images (n, px, px, c): the first three channels, or one.

    Of levels of 16 bits each image's own range is shown.
    """
    shown = levels[..., :3] if levels.shape[-1] >= 3 else levels[..., [0, 0, 0]]
    if shown.dtype != np.uint8:
        shown = np.stack([to_levels(image) for image in shown])
    return np.ascontiguousarray(shown)


def place(features: Tensor) -> tuple[NDArray[np.float32], str]:
    """Points (n, 2) that are near each other if their representations are, and the method's name.

    The method is t-SNE of the cosine distances, which starts from the first two principal
    components; for fewer than 30 images, it is these components. The result is the same every time.
    """
    unit = torch.nn.functional.normalize(features.double()).numpy()
    count = min(_PCA_DIMENSIONS, *unit.shape)
    components = PCA(count, random_state=0).fit_transform(unit) if count > 1 else unit
    if len(unit) < _FEWEST_FOR_TSNE:
        flat = np.zeros((len(unit), 2), np.float32)
        flat[:, : min(2, components.shape[1])] = components[:, :2]
        return flat, "PCA"
    # On unit vectors Euclidean distance orders pairs as cosine similarity does.
    found = TSNE(perplexity=min(_PERPLEXITY, len(unit) // 4), init="pca", random_state=0)
    return found.fit_transform(components.astype(np.float32)).astype(np.float32), "t-SNE"


@dataclass(frozen=True)
class Likeness:
    """An image's number, and its nearest neighbours' numbers and cosine similarities."""

    query: int
    neighbors: tuple[int, ...]
    similarities: tuple[float, ...]


def alike(look: Look, num_queries: int, num_neighbors: int) -> list[Likeness]:
    """The nearest neighbours of `num_queries` images, the image itself left out.

    The queries are of as many classes as possible.
    """
    queries = _queries(look.labels, num_queries)
    similarities, rows = nearest(look.features[queries], look.features, num_neighbors + 1)
    found = []
    for query, row, cosines in zip(queries, rows.tolist(), similarities.tolist(), strict=True):
        others = [(i, c) for i, c in zip(row, cosines, strict=True) if i != query]
        near = others[:num_neighbors]
        found.append(Likeness(query, tuple(i for i, _ in near), tuple(c for _, c in near)))
    return found


def _queries(labels: NDArray[np.int64], count: int) -> list[int]:
    """The first image of each class, in the classes' order; then their second, and so on."""
    seen: Counter[int] = Counter()
    ranks = []
    for row, label in enumerate(labels.tolist()):
        ranks.append((seen[label], label, row))
        seen[label] += 1
    return [row for _, _, row in sorted(ranks)[:count]]
