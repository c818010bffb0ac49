"""How a pretrained encoder is named on the command line."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from bt_ray.config import Settings, override
from bt_ray.presets import preset
from bt_ray.storage.names import absolute

_USUAL = "resnet50"


@dataclass(frozen=True, kw_only=True)
class EncoderPlaces:
    """Where encoders are kept, and what weights alone do not say of themselves."""

    storage: str = "runs"
    """Folder, or URI, of all runs."""
    architecture: str | None = None
    """What a file of weights holds, as --model.encoder names it; none: what timm:NAME and
    torchvision:NAME say themselves, and else resnet50."""
    stem: Literal["imagenet", "cifar"] = "imagenet"
    """First layers of what a file of weights holds, if that is a ResNet."""
    image_px: int = 224
    """Side of the images that a file of weights wants."""
    patch_px: int | None = None
    """Side of the patches of what a file of weights holds; none: as its architecture has it."""
    channels: int = 3
    """Of the images that it wants."""

    def settings_for(self, reference: str) -> Settings:
        """Where runs are kept, and what the weights of this name hold."""
        changes: dict[str, Any] = {
            "storage": absolute(self.storage),
            "model.encoder": self.architecture or _USUAL,
            "model.stem": self.stem,
            "model.patch_px": self.patch_px,
            "views.image_px": self.image_px,
            "data.channels": self.channels,
        }
        return override(preset("images"), changes | self._said(reference))

    def _said(self, reference: str) -> dict[str, Any]:
        """What the name of published weights says of them."""
        kind = reference.partition(":")[0]
        if kind not in ("timm", "torchvision"):
            return {}
        from bt_ray.model.published import architecture_of, statistics_of

        said: dict[str, Any] = {}
        if self.architecture is None:
            said["model.encoder"] = architecture_of(reference)
        if kind == "timm" and self.channels == 3:
            said["data.mean"], said["data.std"] = statistics_of(reference)
        return said


@dataclass(frozen=True, kw_only=True)
class EncoderOrder(EncoderPlaces):
    """A command about one encoder."""

    encoder: Annotated[str, tyro.conf.Positional]
    """A run's folder (its last checkpoint), RUN/best, a checkpoint, each of them with /average for
    averaged weights; models:/NAME@ALIAS, models:/NAME/VERSION, runs:/RUN_ID; a file of weights
    (.pth, .pt, .bin, .safetensors); timm:NAME, torchvision:WEIGHTS or hf:REPOSITORY[@REVISION]."""

    def settings(self) -> Settings:
        """Where runs are kept, and what a file of weights holds."""
        return self.settings_for(self.encoder)
