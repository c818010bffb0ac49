"""Which image has which of as many fixed targets."""

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn.functional import normalize


class Assignment(nn.Module):
    """M unit vectors, drawn once, and the one of them that each of M images has.

    The vectors never change and are drawn again at each start, so a checkpoint has only the
    assignment. On each worker's device they take M · D · 4 bytes and M · 8: of 1.28 million images
    and D = 128 these are 656 MB and 10 MB, the latter in each checkpoint, too.

    Args:
      num_images: M, of the training set.
      width: D, of an embedding.
    Source: Bojanowski and Joulin 2017, section 3.2.
    """

    targets: Tensor
    """(M, D), of length 1."""
    of_image: Tensor
    """int64 (M,), a permutation: each image's target."""

    def __init__(self, num_images: int, width: int) -> None:
        super().__init__()
        drawn = normalize(torch.randn(num_images, width), dim=1)
        self.register_buffer("targets", drawn, persistent=False)
        self.register_buffer("of_image", torch.arange(num_images))


def reassign(embeddings: Tensor, targets: Tensor) -> Tensor:
    """Which of the rows' targets each row shall have, so that all lie nearest: int64 (N,).

    The least sum of squared distances over all permutations, by the Hungarian algorithm in
    float64. It runs on the host, which waits for the embeddings; it takes N³ operations at most.

    Args:
      embeddings, targets: (N, D), of length 1.
    Source: Bojanowski and Joulin 2017, Eq. 5 and Algorithm 1.
    """
    z, t = (x.detach().double().cpu().numpy() for x in (embeddings, targets))
    _, chosen = linear_sum_assignment(z @ t.T, maximize=True)
    return torch.from_numpy(chosen.astype(np.int64)).to(embeddings.device)
