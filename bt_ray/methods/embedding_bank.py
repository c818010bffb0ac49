"""A bank: the last embedding of each image of the training set."""

import torch
from torch import Tensor, nn

from bt_ray.methods.memory_bank import last_of_same


class EmbeddingBank(nn.Module):
    """Embeddings (M, d) in float32 by the images' rows in the data set, and which are there yet.

    For 1.28 million images and d = 128 it takes 657 MB on each worker and in a checkpoint.

    Args:
      num_images: M.
      width: d.
    """

    embeddings: Tensor
    seen: Tensor

    def __init__(self, num_images: int, width: int) -> None:
        super().__init__()
        self.register_buffer("embeddings", torch.zeros(num_images, width))
        self.register_buffer("seen", torch.zeros(num_images, dtype=torch.bool))

    @torch.no_grad()
    def write(self, samples: Tensor, embeddings: Tensor) -> None:
        """Puts embeddings (N, d) in the places of the images `samples`, int64 (N,).

        Of an image that is there twice, in place of one that cannot be decoded, the last counts.
        """
        rows = embeddings.to(self.embeddings.dtype)[last_of_same(samples)]
        self.embeddings.index_copy_(0, samples, rows)
        self.seen.index_fill_(0, samples, True)

    def rows(self) -> Tensor:
        """The images that have an embedding, int64, ascending; waits for the device.

        Images are missing that no step has shown, such as the last ones of an epoch, too few for a
        batch, and those that cannot be decoded.
        """
        return self.seen.nonzero().squeeze(1)
