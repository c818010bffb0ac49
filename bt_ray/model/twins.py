"""The twins: one encoder and one projector, applied to both views."""

import torch
from torch import Tensor, nn

from bt_ray.config import Settings
from bt_ray.model.batch_norm import globalize_batch_norm
from bt_ray.model.encoder import build_encoder
from bt_ray.model.network import Network
from bt_ray.model.projector import build_projector


class Twins(Network):
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
        super().__init__(encoder, projector)
        self.predictor = predictor
        self.stop_gradient = stop_gradient

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
        z_a, z_b = self.project(*self.represent(view_a, view_b))
        return z_a, z_b

    def project(self, *representations: Tensor) -> tuple[Tensor, ...]:
        """Embeddings (n, D) of each view, from their representations (n, F)."""
        z_a, z_b = super().project(*representations)
        return z_a if self.predictor is None else self.predictor(z_a), z_b

    def through(self, part: nn.Module, *views: Tensor) -> tuple[Tensor, ...]:
        """What a part makes of each of the two views."""
        if not self.stop_gradient:
            return super().through(part, *views)
        a, b = views
        # The one with a gradient first: autocast keeps the weights that it casts for both.
        of_a = part(a)
        with torch.no_grad():
            return of_a, part(b)


def build_twins(settings: Settings, encoder: nn.Module | None = None) -> Twins:
    """Twins with new weights, drawn by torch's global generator, on the CPU.

    The predictor is an MLP like the projector, always with batch norm: "2 fully connected layers
    of size 8192 … with batch normalization followed by a ReLU nonlinearity in the hidden layer".

    Args:
      encoder: one that was built by the settings already.
    """
    encoder, projector, predictor = _build_parts(settings, encoder)
    return Twins(encoder, projector, predictor, stop_gradient=settings.model.stop_gradient)


def build_network(settings: Settings, *, views: int = 2, joined: bool = False) -> Network:
    """Encoder, projector and, if the settings have one, `predictor`, drawn as `build_twins` does.

    Args:
      views, joined: as for `Network`.
    """
    encoder, projector, predictor = _build_parts(settings)
    parts = {} if predictor is None else {"predictor": predictor}
    return Network(encoder, projector, parts, views=views, joined=joined)


def _build_parts(
    settings: Settings, encoder: nn.Module | None = None
) -> tuple[nn.Module, nn.Module, nn.Module | None]:
    model = settings.model
    encoder = build_encoder(settings) if encoder is None else encoder
    widths = model.projector_widths
    projector = build_projector(
        encoder.num_features,  # type: ignore[arg-type]
        widths,
        batch_norm=model.projector_batch_norm,
        last_norm=model.projector_last_norm,
    )
    predictor = None
    if model.predictor_widths is not None:
        predictor = build_projector(widths[-1], model.predictor_widths)
    return encoder, projector, predictor
