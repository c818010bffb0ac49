"""Exact nearest neighbours, and the weighted classification by them."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from bt_ray.evaluation.features import Features

_QUERY_BLOCK, _BANK_BLOCK = 1024, 65_536
_MOST_NEIGHBORS = 200
"""k of Wu et al. 2018, who have 1,281,167 images of 1,000 classes in the bank."""


def choose_neighbors(labels: Tensor) -> int:
    """The k for a bank of images with these labels: the least of √M, half a class and 200.

    The error of kNN comes to its limit as the bank grows if k grows and k / M vanishes (Stone
    1977); √M is the usual rule that does both. More neighbours than a class has images would be of
    other classes for certain, however good the representations are: half of a class's images, on
    average over the classes, leaves room for a classification that is right. 200 is what the
    literature has for ImageNet and CIFAR-10, and what the rule comes to there.

    Args:
      labels: int64 (M,), of the bank; -1 where there is none.
    Returns: at least 1.
    """
    count = int((labels >= 0).sum())
    num_classes = max(1, len(labels[labels >= 0].unique()))
    return max(1, min(math.isqrt(count), count // (2 * num_classes), _MOST_NEIGHBORS))


def nearest(queries: Tensor, bank: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Cosine similarities and bank indices of each query's k nearest, both (Q, k), descending.

    Exact, block by block: what is held besides the two is 1024 × 65,536 similarities, so that
    a bank of tens of millions fits wherever it itself does.

    Args:
      queries: (Q, F).
      bank: (M, F); all of it is returned if M < k.
    """
    return nearest_in_blocks(queries, bank.split(_BANK_BLOCK), k)


def nearest_in_blocks(queries: Tensor, blocks: Iterable[Tensor], k: int) -> tuple[Tensor, Tensor]:
    """The same of a bank that comes block by block, of which one is held at a time."""
    queries = functional.normalize(queries.float())
    best = queries.new_empty((len(queries), 0))
    index = torch.empty((len(queries), 0), dtype=torch.int64, device=queries.device)
    first = 0
    for block in blocks:
        unit = functional.normalize(block.float())
        found = [(part @ unit.T).topk(min(k, len(unit))) for part in queries.split(_QUERY_BLOCK)]
        similarity, place = (torch.cat(parts) for parts in zip(*found, strict=True))
        together = torch.cat([best, similarity], 1)
        best, chosen = together.topk(min(k, together.shape[1]))
        index = torch.cat([index, place + first], 1).gather(1, chosen)
        first += len(block)
    return best, index


def knn_top1(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    query_labels: Tensor,
    *,
    neighbors: int,
    temperature: float,
) -> float:
    """Share of queries, 0 to 1, whose class gets the most votes of their nearest neighbours.

    A neighbour's vote weighs exp(cosine similarity / temperature).

    Args:
      bank: (M, F) representations whose labels (M,) are known.
      queries: (Q, F) representations whose labels (Q,) are to be found.
      neighbors: k; all of the bank if it has fewer.
    Source: Wu et al. 2018, "Unsupervised feature learning via non-parametric instance
      discrimination", section 3.4.
    """
    similarity, index = nearest(queries, bank, neighbors)
    num_classes = int(torch.maximum(bank_labels.max(), query_labels.max())) + 1
    votes = similarity.new_zeros(len(queries), num_classes)
    votes.scatter_add_(1, bank_labels[index], (similarity / temperature).exp())
    return int((votes.argmax(1) == query_labels).sum()) / len(queries)


@dataclass(frozen=True)
class Knn:
    """kNN as an evaluation: `neighbors` is k, `temperature` that of their votes."""

    neighbors: int
    temperature: float

    def __call__(self, train: Features, test: Features) -> dict[str, float]:
        """`knn_top1` of the test images, whose classes those of the training images tell."""
        top1 = knn_top1(
            train.x,
            train.labels,
            test.x,
            test.labels,
            neighbors=self.neighbors,
            temperature=self.temperature,
        )
        return {"knn_top1": top1}
