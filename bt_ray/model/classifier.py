"""An encoder and a linear layer: an image classifier."""

import torch
from torch import Tensor, nn

from bt_ray.model.pretrained import Pretrained

_INITIAL_DEVIATION = 0.01


class Classifier(nn.Module):
    """Logits (n, classes) of images (n, 3, px, px).

    A frozen encoder stays in eval mode, without gradients, also while the classifier is trained.
    """

    def __init__(self, encoder: nn.Module, head: nn.Module, *, frozen: bool) -> None:
        super().__init__()
        self.encoder, self.head, self.frozen = encoder, head, frozen
        if frozen:
            encoder.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> "Classifier":
        """Sets training or eval mode; a frozen encoder stays in eval mode."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, classes) of images (n, 3, px, px)."""
        logits: Tensor = self.head(self.represent(x))
        return logits

    def represent(self, x: Tensor) -> Tensor:
        """Representations (n, F), without a gradient if the encoder is frozen."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            representations: Tensor = self.encoder(x)
        return representations


def build_classifier(
    pretrained: Pretrained, num_classes: int, *, frozen: bool, standardize: bool = False
) -> Classifier:
    """A classifier of this encoder and a new linear layer.

    The layer's weights are drawn from a normal distribution of deviation 0.01 by torch's global
    generator; its biases start at 0.

    Args:
      frozen: whether only the linear layer is trained.
      standardize: whether a batch norm without weights standardises the features before the layer.
    Source: the code of Zbontar et al. 2021, which does not standardise.
    """
    linear = nn.Linear(pretrained.num_features, num_classes)
    nn.init.normal_(linear.weight, std=_INITIAL_DEVIATION)
    nn.init.zeros_(linear.bias)
    head: nn.Module = linear
    if standardize:
        head = nn.Sequential(nn.BatchNorm1d(pretrained.num_features, affine=False), linear)
    return Classifier(pretrained.encoder, head, frozen=frozen)
