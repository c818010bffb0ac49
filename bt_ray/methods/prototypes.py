"""Prototypes: points on the sphere that embeddings are compared with, learnt with the network."""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize


class Prototypes(nn.Module):
    """One or more sets of K prototypes of norm 1, each the weight of a linear layer without bias.

    Args:
      width: d, dimensions of an embedding.
      number: K.
      heads: how many sets, each drawn by itself.
    Source: Caron et al. 2020, section 3.1 and appendix A.
    """

    def __init__(self, width: int, number: int, heads: int = 1) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(width, number, bias=False) for _ in range(heads))
        self.normalize()

    @property
    def weights(self) -> list[nn.Parameter]:
        """The prototypes (K, d) of each head."""
        return list(self.parameters())

    def forward(self, embeddings: Tensor, *, frozen: bool = False) -> list[Tensor]:
        """Scores (n, K) of each head: cosines with embeddings (n, d), which have norm 1.

        Args:
          frozen: whether the prototypes' gradients are zeros. They are there even so, since the
            workers sum the gradients of all parameters.
        """
        weights = self.weights
        if frozen:
            weights = [weight.detach() + 0 * weight for weight in weights]  # type: ignore[misc]
        return [linear(embeddings, weight) for weight in weights]

    @torch.no_grad()
    def normalize(self) -> None:
        """Gives each prototype the norm 1."""
        for weight in self.weights:
            weight.copy_(normalize(weight, dim=1))
