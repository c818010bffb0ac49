"""Turns pixel levels into an encoder's input: normalised, in the chosen memory layout."""

from functools import cache

import torch
from torch import Tensor

from bt_ray.config import DataSettings, Settings
from bt_ray.precision import memory_format

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
_EVEN_MEAN, _EVEN_STD = 0.5, 0.25
Shares = tuple[float, ...]


_RGB = DataSettings(train="")


def normalize(levels: Tensor, data: DataSettings = _RGB) -> Tensor:
    """Levels (n, c, h, w), normalised by the settings' mean and deviation: float32.

    Args:
      levels: of any type; bytes are widened by the subtraction itself.
      data: encoders that were registered before version 0.2, on 8-bit RGB, give none.
    """
    mean, std = statistics(*shares(data), data.highest_level, levels.device)
    x = levels if levels.dtype == torch.uint8 else levels.float()
    return (x - mean) / std


def shares(data: DataSettings) -> tuple[Shares, Shares]:
    """Mean and deviation of each channel, as shares of the highest level.

    Where nobody knows them: ImageNet's of three channels, and those of evenly spread levels.
    """
    if data.mean is not None and data.std is not None:
        return data.mean, data.std
    if data.channels == len(_IMAGENET_MEAN):
        return _IMAGENET_MEAN, _IMAGENET_STD
    return (_EVEN_MEAN,) * data.channels, (_EVEN_STD,) * data.channels


@cache
def statistics(
    mean: Shares, std: Shares, highest_level: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Mean and deviation of the channels in levels, (1, c, 1, 1), made once a device.

    The device would be stopped by a copy at every step.
    """
    with torch.inference_mode(False):  # whoever asks first, others may want gradients
        both = torch.tensor((mean, std)) * highest_level
        of_mean, of_std = both.to(device).view(2, 1, len(mean), 1, 1)
        return of_mean, of_std


def to_input(levels: Tensor, settings: Settings) -> Tensor:
    """The encoder's input (n, c, px, px): `normalize`d levels, in the settings' memory layout."""
    layout = memory_format(settings.training)
    return normalize(levels, settings.data).contiguous(memory_format=layout)
