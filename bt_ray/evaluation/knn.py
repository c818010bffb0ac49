"""Weighted k-nearest-neighbour classification of frozen representations."""

import torch
from torch import Tensor
from torch.nn import functional

_BLOCK = 1024


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
    bank = functional.normalize(bank.float())
    queries = functional.normalize(queries.float())
    num_classes = int(torch.maximum(bank_labels.max(), query_labels.max())) + 1
    correct = 0
    for block, labels in zip(queries.split(_BLOCK), query_labels.split(_BLOCK), strict=True):
        similarity, index = (block @ bank.T).topk(min(neighbors, len(bank)))
        votes = similarity.new_zeros(len(block), num_classes)
        votes.scatter_add_(1, bank_labels[index], (similarity / temperature).exp())
        correct += int((votes.argmax(1) == labels).sum())
    return correct / len(queries)
