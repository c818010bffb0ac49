"""From the representations of an image's patches to one embedding."""

from torch import Tensor, nn


class JigsawHead(nn.Module):
    """Each patch's representation → D, by one linear layer; all patches' together → D, by another.

    The layers have biases, as has the linear projection in the authors' code.

    Args:
      num_features: F, of a representation.
      num_patches: P.
      width: D.
    Source: Misra and van der Maaten 2020, section 3.2.
    """

    def __init__(self, num_features: int, num_patches: int, width: int) -> None:
        super().__init__()
        self.of_patch = nn.Linear(num_features, width)
        self.of_image = nn.Linear(num_patches * width, width)

    def forward(self, representations: Tensor) -> Tensor:
        """Embeddings (n, D) of (n, P, F)."""
        embedded: Tensor = self.of_image(self.of_patch(representations).flatten(1))
        return embedded
