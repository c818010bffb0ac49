"""The first layers of an encoder: for other channels than three, and for small images."""

from typing import cast

from torch import nn

from bt_ray.config import Settings
from bt_ray.errors import SettingsError

_RGB = 3


def take_channels(encoder: nn.Module, channels: int) -> None:
    """Has the first convolution take so many channels, by new weights if they were three."""
    if channels == _RGB:
        return
    name, first = next(
        (name, part) for name, part in encoder.named_modules() if isinstance(part, nn.Conv2d)
    )
    made = nn.Conv2d(
        channels,
        first.out_channels,
        cast(tuple[int, int], first.kernel_size),
        stride=cast(tuple[int, int], first.stride),
        padding=cast(tuple[int, int], first.padding),
        bias=first.bias is not None,
    )
    nn.init.kaiming_normal_(made.weight, mode="fan_out", nonlinearity="relu")
    encoder.set_submodule(name, made)


def shorten_stem(encoder: nn.Module, settings: Settings) -> None:
    """Gives a ResNet the stem for small images: 3×3 with stride 1, and no max-pool.

    Raises: SettingsError if the encoder is no ResNet with one convolution before its max-pool.
    """
    first = getattr(encoder, "conv1", None)
    if not (isinstance(first, nn.Conv2d) and hasattr(encoder, "maxpool")):
        raise SettingsError(
            f"model.stem=cifar is a ResNet's first layers, and model.encoder="
            f"{settings.model.encoder} has no such; leave it out."
        )
    encoder.conv1 = nn.Conv2d(
        settings.data.channels, first.out_channels, 3, stride=1, padding=1, bias=False
    )
    encoder.maxpool = nn.Identity()
