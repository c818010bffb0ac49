"""A queue: the embeddings of the last steps."""

import torch
from torch import Tensor, nn


class EmbeddingQueue(nn.Module):
    """The last Q embeddings of each of two views, (2, Q, d) in float32, the newest first.

    The 3,840 rows of the paper, of 128 numbers, take 3.9 MB on each worker and in a checkpoint.

    Args:
      num_rows: Q.
      width: d.
    """

    embeddings: Tensor

    def __init__(self, num_rows: int, width: int) -> None:
        super().__init__()
        self.register_buffer("embeddings", torch.zeros(2, num_rows, width))

    @torch.no_grad()
    def push(self, embeddings: Tensor) -> None:
        """Puts the embeddings (2, N, d) of a step in the place of the oldest."""
        num_rows = self.embeddings.shape[1]
        newest = embeddings.to(self.embeddings.dtype)
        self.embeddings.copy_(torch.cat([newest, self.embeddings], dim=1)[:, :num_rows])
