"""The twins: one encoder and one projector, applied to both views."""

from torch import Tensor, nn

from bt_ray.config import ModelSettings
from bt_ray.model.encoder import build_encoder
from bt_ray.model.projector import build_projector


class Twins(nn.Module):
    """Embeds two batches of views with the same weights.

    The views pass one after the other, so that batch norm sees each with its own statistics.
    """

    def __init__(self, encoder: nn.Module, projector: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = projector

    def forward(self, view_a: Tensor, view_b: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings (n, D) of each view, from two (n, 3, px, px)."""
        return self.projector(self.encoder(view_a)), self.projector(self.encoder(view_b))


def build_twins(settings: ModelSettings) -> Twins:
    """Twins with freshly initialised weights, on the CPU."""
    encoder = build_encoder(settings)
    return Twins(encoder, build_projector(encoder.num_features, settings.projector_widths))  # type: ignore[arg-type]
