"""Chooses how to compute the loss, by floating-point operations, bytes, and lost digits."""

from dataclasses import dataclass
from typing import Literal

Form = Literal["auto", "correlation", "gram"]
"""What the setting `objective.form` may say."""
Way = Literal["correlation", "gram_rows", "gram_columns"]
"""The three computations there are: `correlation`, and `layouts.row_terms` and `column_terms`."""

_FLOPS_PER_BYTE_SENT = 300
_FLOPS_PER_BYTE_MOVED = 10
"""Operations that a worker does while one byte passes its network, or its memory. Both are ours:
for the network it is from 50 (a CPU and gloo) to 1200 (one card of eight behind InfiniBand)."""
_PASSES_OVER_C = 10
"""How often the correlation form reads or writes the whole of C, forward and backward."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one worker spends on one loss and its gradients."""

    flops: float
    bytes_sent: float
    """Over the network, with ring all-reduce and ring all-gather."""
    bytes_moved: float = 0.0
    """To and from memory, without what is moved during the matrix products."""

    @property
    def weight(self) -> float:
        """The whole cost in flops, bytes counted as the flops that take as long."""
        sent, moved = self.bytes_sent, self.bytes_moved
        return self.flops + _FLOPS_PER_BYTE_SENT * sent + _FLOPS_PER_BYTE_MOVED * moved


def cost(
    way: Way, *, num_samples: int, num_dimensions: int, num_workers: int, itemsize: int = 4
) -> Cost:
    """The cost of `way` to each of W equal workers; terms of O(D) bytes are left out.

    With s = (W − 1)/W, and 2 flops for a multiplication and an addition:

    | | flops | values sent |
    | --- | --- | --- |
    | correlation | 6 N D²/W: C, and a product of each gradient | 2 s D²: all-reduce of C |
    | gram rows | 8 N² D/W: both K, and a product of each gradient | 2 s N D: all-gather |
    | gram columns | 8 N² D/W | 4 s N D/W, all-to-all and back; 4 s N², all-reduce of both K |

    Args:
      num_samples: N of the global batch.
      num_dimensions: D.
      num_workers: W.
      itemsize: bytes of a value.
    """
    n, d, w = num_samples, num_dimensions, num_workers
    sent = (w - 1) / w * itemsize
    if way == "correlation":
        return Cost(
            flops=6 * n * d**2 / w,
            bytes_sent=2 * sent * d**2,
            bytes_moved=_PASSES_OVER_C * itemsize * d**2,
        )
    values = 2 * n * d if way == "gram_rows" else 4 * n * d / w + 4 * n**2
    return Cost(flops=8 * n**2 * d / w, bytes_sent=sent * values)


def choose_way(form: Form, *, num_samples: int, num_dimensions: int, num_workers: int) -> Way:
    """The cheapest way that `form` allows; of two equally cheap Gram layouts, the columns.

    `auto` never takes a Gram form for D < N: it would be no faster, and less exact. A Gram form
    computes off_diagonal as Σ Cᵢⱼ² − Σ Cᵢᵢ², and the first sum is about off_diagonal + D. With
    D ≪ N off_diagonal can be D²/N or less, so the difference loses log10(N/D) digits
    (docs/beyond-16000-dimensions.md).
    """
    sizes = {"num_samples": num_samples, "num_dimensions": num_dimensions}

    def weight(way: Way) -> float:
        return cost(way, **sizes, num_workers=num_workers).weight

    if form == "correlation" or (form == "auto" and num_dimensions < num_samples):
        return "correlation"
    grams: list[Way] = ["gram_columns", "gram_rows"]
    # Their flops are equal: this is the layout of the fewest bytes sent.
    gram = min(grams, key=weight)
    return gram if form == "gram" else min(gram, "correlation", key=weight)
