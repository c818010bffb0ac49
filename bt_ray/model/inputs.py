"""Turns pixel levels into an encoder's input: normalised, in the chosen memory layout."""

from functools import cache

import torch
from torch import Tensor

from bt_ray.config import TrainingSettings
from bt_ray.precision import memory_format

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


def normalize(levels: Tensor) -> Tensor:
    """Levels (n, 3, h, w), 0 to 255, normalised by ImageNet's mean and deviation: float32.

    Args:
      levels: of any type; bytes are widened by the subtraction itself.
    """
    mean, std = statistics(levels.device)
    x = levels if levels.dtype == torch.uint8 else levels.float()
    return (x - mean) / std


@cache
def statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and deviation of the three channels in levels, (1, 3, 1, 1), made once a device.

    The device would be stopped by a copy at every step.
    """
    with torch.inference_mode(False):  # whoever asks first, others may want gradients
        both = torch.tensor((_IMAGENET_MEAN, _IMAGENET_STD)) * 255
        mean, std = both.to(device).view(2, 1, 3, 1, 1)
        return mean, std


def to_input(levels: Tensor, settings: TrainingSettings) -> Tensor:
    """The encoder's input (n, 3, px, px): `normalize`d levels, in the settings' memory layout."""
    return normalize(levels).contiguous(memory_format=memory_format(settings))
