"""A ResNet as its stages: what a detector takes of an encoder."""

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bt_ray.errors import SettingsError

STAGES = ("layer1", "layer2", "layer3", "layer4")
_ACTIVATIONS = ("relu", "act1")
"""What torchvision and timm call the first activation."""
_PROBE_PX = 64
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Stages:
    """The layers of a ResNet up to its last map.

    `layers`: by name, in their order; those before `layer1` are the stem. `channels`, `strides`:
    of each stage's map, by the stage's name; the stride is in pixels of the image.
    """

    layers: OrderedDict[str, nn.Module]
    channels: dict[str, int]
    strides: dict[str, int]

    @property
    def body(self) -> nn.Sequential:
        """All layers, one after the other."""
        return nn.Sequential(self.layers)


def find_stages(encoder: nn.Module) -> Stages:
    """The stages of a ResNet of torchvision's or timm's, which keep its weights.

    Channels and strides are those of the maps of an empty image, so that any number of channels
    and either stem is taken.

    Raises: SettingsError if the encoder is no such ResNet.
    """
    children = dict(encoder.named_children())
    activation = next((name for name in _ACTIVATIONS if name in children), _ACTIVATIONS[0])
    names = ("conv1", "bn1", activation, "maxpool", *STAGES)
    if missing := [name for name in names if name not in children]:
        raise _refusal(encoder, f"{', '.join(missing)} is not there")
    layers = OrderedDict((name, children[name]) for name in names)
    was_training = encoder.training
    encoder.eval()
    try:
        channels, strides = _look(encoder, layers)
    finally:
        encoder.train(was_training)
    return Stages(layers, channels, strides)


@torch.no_grad()
def _look(
    encoder: nn.Module, layers: OrderedDict[str, nn.Module]
) -> tuple[dict[str, int], dict[str, int]]:
    """Channels and strides of the stages.

    Raises: SettingsError if their last map's mean is not the encoder's representation.
    """
    weight = next(encoder.parameters())
    first = next(part for part in layers["conv1"].modules() if isinstance(part, nn.Conv2d))
    generator = torch.Generator().manual_seed(0)
    shape = (1, first.in_channels, _PROBE_PX, _PROBE_PX)
    image = torch.randn(shape, generator=generator).to(weight)
    channels, strides, x = {}, {}, image
    for name, layer in layers.items():
        x = layer(x)
        if name in STAGES:
            channels[name], strides[name] = x.shape[1], _PROBE_PX // x.shape[-1]
    pooled, expected = x.mean((2, 3)), encoder(image)
    if not _is_close(pooled, expected):
        raise _refusal(encoder, "it computes something beside the stages")
    return channels, strides


def _is_close(found: Tensor, expected: Tensor) -> bool:
    return found.shape == expected.shape and bool(
        (found - expected).norm() <= _TOLERANCE * expected.norm()
    )


def _refusal(encoder: nn.Module, reason: str) -> SettingsError:
    return SettingsError(
        f"Detection fine-tunes a ResNet of conv1, bn1, maxpool and layer1 to layer4, and this "
        f"{type(encoder).__name__} is none: {reason}. Take an encoder such as resnet50, "
        "torchvision:resnet18 or timm:resnet50."
    )
