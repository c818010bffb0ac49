"""An embedding of each image of the training set, from when it was seen last."""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize


class MemoryBank(nn.Module):
    """Moving averages of the images' embeddings, by their rows in the data set.

    It begins with random unit vectors. It takes M · D · 4 bytes on each worker's device, the same
    on all, again in host memory while a checkpoint is written, and in each checkpoint: of 1.28
    million images and D = 128 these are 656 MB.

    Args:
      num_images: M, of the training set.
      width: D, of an embedding.
    Source: Misra and van der Maaten 2020, section 3.2.
    """

    entries: Tensor
    """(M, D), of length 1."""

    def __init__(self, num_images: int, width: int) -> None:
        super().__init__()
        self.register_buffer("entries", normalize(torch.randn(num_images, width), dim=1))

    @torch.no_grad()
    def follow(self, samples: Tensor, embeddings: Tensor, momentum: float) -> None:
        """Each entry ← momentum · itself + (1 − momentum) · its embedding, then of length 1.

        The paper does not say whether an average is brought to length 1 again. It matters to the
        next average only; we do, as in the instance discrimination that the bank comes from (Wu et
        al. 2018, section 3.1, where v is on the unit sphere).

        Args:
          samples: int64 (N,), the rows of the entries. One may be there twice, in the place of an
            image that could not be decoded; the last one counts.
          embeddings: (N, D), of length 1.
        """
        new = torch.lerp(embeddings.to(self.entries.dtype), self.entries[samples], momentum)
        self.entries[samples] = normalize(new, dim=1)[last_of_same(samples)]


def last_of_same(samples: Tensor) -> Tensor:
    """Of each of (N,) numbers, where the last one equal to it stands, int64 (N,).

    What is written by such an index is the same for equal numbers, in whatever order a GPU writes.
    """
    ordered, places = samples.sort(stable=True)
    return places[torch.searchsorted(ordered, samples, right=True) - 1]
