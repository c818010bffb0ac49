"""How often a classifier is right."""

from torch import Tensor

FEWEST_CLASSES_FOR_TOP5 = 6
"""Of fewer, five guesses would name all."""


def guesses_counted(num_classes: int) -> tuple[int, ...]:
    """The k of the top-k scores that say something about so many classes."""
    return (1, 5) if num_classes >= FEWEST_CLASSES_FOR_TOP5 else (1,)


def count_hits(logits: Tensor, labels: Tensor, k: int) -> int:
    """How many of the n labels are among the k classes of their row's highest logits.

    Args:
      logits: (n, classes).
      labels: int64 (n,).
    """
    return int((logits.topk(k).indices == labels[:, None]).sum())
