"""The last keys of earlier steps, which are the negatives of MoCo."""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize


class Queue(nn.Module):
    """A ring of keys, whose oldest give way to each step's.

    Which step it is says where its keys go, so nothing is read from the device. As in the authors'
    code it begins full of random unit vectors, not empty: the first steps' logits are as many as
    the last ones'.

    Args:
      num_rows: Q, of the ring.
      width: D, of a key.
    """

    keys: Tensor
    """(Q, D), of length 1."""

    def __init__(self, num_rows: int, width: int) -> None:
        super().__init__()
        self.register_buffer("keys", normalize(torch.randn(num_rows, width), dim=1))

    @torch.no_grad()
    def put(self, keys: Tensor, step: int) -> None:
        """Puts the keys (N, D) of a step in the place of the oldest N.

        Of more keys than the ring holds, the last count.

        Args:
          step: counted from 0; all steps have N keys.
        """
        first = step * len(keys) + max(0, len(keys) - len(self.keys))
        kept = keys[-len(self.keys) :]
        start = first % len(self.keys)
        until_end = min(len(kept), len(self.keys) - start)
        self.keys[start : start + until_end] = kept[:until_end]
        self.keys[: len(kept) - until_end] = kept[until_end:]
