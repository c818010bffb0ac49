"""The twins: one encoder and one projector, applied to both views."""

from contextlib import nullcontext

import torch
from torch import Tensor, nn

from bt_ray.config import Settings
from bt_ray.model.batch_norm import globalize_batch_norm
from bt_ray.model.encoder import build_encoder
from bt_ray.model.projector import build_projector


class Twins(nn.Module):
    """Embeds two batches of views with the same weights.

    Batch norm uses each view's own statistics: the views pass one after the other, or together
    through batch norms that keep them apart (`globalize_batch_norm`).

    The paper also breaks the symmetry: "adding a predictor network … to one of the network …
    and/or a stop-gradient mechanism on the other network" (section 4, Table 6). The predictor
    follows the projector of the first view, and the gradient stops at the embeddings of the
    second, with or without a predictor. Which view has which role is our choice. The text says
    "one" and "the other", so the views do not swap roles for a second loss, as they do in SimSiam
    and BYOL.
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
        self._at_once = False

    def globalize_batch_norm(self) -> None:
        """Makes every batch norm use the statistics of all workers' rows.

        If both views have gradients, they then pass together, and the workers exchange statistics
        half as often.
        """
        self._at_once = not self.stop_gradient
        views = 2 if self._at_once else 1
        self.encoder = globalize_batch_norm(self.encoder, views)
        self.projector = globalize_batch_norm(self.projector, views)
        if self.predictor is not None:
            self.predictor = globalize_batch_norm(self.predictor)

    def forward(self, view_a: Tensor, view_b: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings (n, D) of the two views (n, 3, px, px).

        The first view's have passed the predictor, if there is one.
        """
        return self.project(*self.represent(view_a, view_b))

    def represent(self, view_a: Tensor, view_b: Tensor) -> tuple[Tensor, Tensor]:
        """Representations (n, F) of each view, from two (n, 3, px, px)."""
        return self._apply_to_both(self.encoder, view_a, view_b)

    def project(self, r_a: Tensor, r_b: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings (n, D) of each view, from their representations (n, F)."""
        z_a, z_b = self._apply_to_both(self.projector, r_a, r_b)
        return z_a if self.predictor is None else self.predictor(z_a), z_b

    def _apply_to_both(self, part: nn.Module, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        if self._at_once:
            both: Tensor = part(torch.cat([a, b]))
            of_a, of_b = both.chunk(2)
            return of_a, of_b
        # The one with a gradient first: autocast keeps the weights that it casts for both.
        of_a = part(a)
        with torch.no_grad() if self.stop_gradient else nullcontext():
            of_b = part(b)
        return of_a, of_b


def build_twins(settings: Settings, encoder: nn.Module | None = None) -> Twins:
    """Twins with new weights, drawn by torch's global generator, on the CPU.

    The predictor is an MLP like the projector, always with batch norm: "2 fully connected layers
    of size 8192 … with batch normalization followed by a ReLU nonlinearity in the hidden layer".

    Args:
      encoder: one that was built by the settings already.
    """
    model = settings.model
    encoder = build_encoder(settings) if encoder is None else encoder
    widths = model.projector_widths
    projector = build_projector(
        encoder.num_features,  # type: ignore[arg-type]
        widths,
        batch_norm=model.projector_batch_norm,
    )
    predictor = None
    if model.predictor_widths is not None:
        predictor = build_projector(widths[-1], model.predictor_widths)
    return Twins(encoder, projector, predictor, stop_gradient=model.stop_gradient)
