"""Exact nearest neighbours, and the weighted classification by them."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from bt_ray.evaluation.features import Features

_QUERY_BLOCK, _BANK_BLOCK = 1024, 65_536


def nearest(queries: Tensor, bank: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Cosine similarities and bank indices of each query's k nearest, both (Q, k), descending.

    Exact, block by block: what is held besides the two is 1024 × 65,536 similarities, so that
    a bank of tens of millions fits wherever it itself does.

    Args:
      queries: (Q, F).
      bank: (M, F); all of it is returned if M < k.
    """
    found = [_nearest_of_block(block, bank, min(k, len(bank)))
             for block in functional.normalize(queries.float()).split(_QUERY_BLOCK)]  # fmt: skip
    similarities, indices = zip(*found, strict=True)
    return torch.cat(similarities), torch.cat(indices)


def _nearest_of_block(queries: Tensor, bank: Tensor, k: int) -> tuple[Tensor, Tensor]:
    best = queries.new_empty((len(queries), 0))
    index = torch.empty((len(queries), 0), dtype=torch.int64, device=queries.device)
    for first in range(0, len(bank), _BANK_BLOCK):
        part = functional.normalize(bank[first : first + _BANK_BLOCK].float())
        similarity, place = (queries @ part.T).topk(min(k, len(part)))
        together = torch.cat([best, similarity], 1)
        best, chosen = together.topk(min(k, together.shape[1]))
        index = torch.cat([index, place + first], 1).gather(1, chosen)
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
