"""The twins: one encoder and one projector, applied to both views."""

from contextlib import nullcontext

import torch
from torch import Tensor, nn

from bt_ray.config import ModelSettings
from bt_ray.model.encoder import build_encoder
from bt_ray.model.projector import build_projector


class Twins(nn.Module):
    """Embeds two batches of views with the same weights.

    The views pass one after the other, so that batch norm sees each with its own statistics.

    The paper also breaks the symmetry: "adding a predictor network … to one of the network …
    and/or a stop-gradient mechanism on the other network" (section 4, Table 6). The predictor
    follows the projector of the first view, and the gradient stops at the embeddings of the
    second, predictor or not: which view is which is our choice. As written, "one" and "the
    other", the roles are not exchanged for a second loss, as SimSiam and BYOL do.
    """

    def __init__(
        self,
        encoder: nn.Module,
        projector: nn.Module,
        predictor: nn.Module | None = None,
        *,
        stop_gradient: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = projector
        self.predictor = predictor
        self.stop_gradient = stop_gradient

    def forward(self, view_a: Tensor, view_b: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings (n, D) of each view, from two (n, 3, px, px); the first ones predicted."""
        # The one with a gradient first: autocast keeps the weights that it casts for both.
        z_a = self.projector(self.encoder(view_a))
        if self.predictor is not None:
            z_a = self.predictor(z_a)
        with torch.no_grad() if self.stop_gradient else nullcontext():
            z_b = self.projector(self.encoder(view_b))
        return z_a, z_b


def build_twins(settings: ModelSettings) -> Twins:
    """Twins with freshly initialised weights, on the CPU.

    The predictor is an MLP like the projector, always with batch norm: "2 fully connected layers
    of size 8192 … with batch normalization followed by a ReLU nonlinearity in the hidden layer".
    """
    encoder, widths = build_encoder(settings), settings.projector_widths
    projector = build_projector(
        encoder.num_features,  # type: ignore[arg-type]
        widths,
        batch_norm=settings.projector_batch_norm,
    )
    predictor = None
    if settings.predictor_widths is not None:
        predictor = build_projector(widths[-1], settings.predictor_widths)
    return Twins(encoder, projector, predictor, stop_gradient=settings.stop_gradient)
