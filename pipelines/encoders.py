"""How a pretrained encoder is named on the command line."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from bt_ray.config import Settings, override
from bt_ray.presets import preset
from bt_ray.storage.names import absolute


@dataclass(frozen=True, kw_only=True)
class EncoderPlaces:
    """Where encoders are kept, and what a file of weights does not say of itself."""

    storage: str = "runs"
    """Folder, or URI, of all runs."""
    architecture: str = "resnet50"
    """What a file of weights holds."""
    stem: Literal["imagenet", "cifar"] = "imagenet"
    """First layers of what a file of weights holds."""
    image_px: int = 224
    """Side of the images that a file of weights wants."""

    def settings(self) -> Settings:
        """Where runs are kept, and what a file of weights holds."""
        return override(
            preset("images"),
            {
                "storage": absolute(self.storage),
                "model.encoder": self.architecture,
                "model.stem": self.stem,
                "views.image_px": self.image_px,
            },
        )


@dataclass(frozen=True, kw_only=True)
class EncoderOrder(EncoderPlaces):
    """A command about one encoder."""

    encoder: Annotated[str, tyro.conf.Positional]
    """A run's folder (its last checkpoint), RUN/best, a checkpoint, each of them with /average for
    averaged weights; models:/NAME@ALIAS, models:/NAME/VERSION, runs:/RUN_ID; or a file of weights
    as torchvision's ResNets have them (.pth, .pt, .safetensors)."""
