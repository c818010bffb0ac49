"""Turns pixel levels into an encoder's input: normalised, in the chosen memory layout."""

import torch
from torch import Tensor

from bt_ray.config import TrainingSettings
from bt_ray.precision import memory_format

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


def normalize(levels: Tensor) -> Tensor:
    """Levels (n, 3, h, w), 0 to 255, normalised by ImageNet's mean and deviation: float32."""
    mean = torch.tensor(_IMAGENET_MEAN, device=levels.device).view(1, 3, 1, 1) * 255
    std = torch.tensor(_IMAGENET_STD, device=levels.device).view(1, 3, 1, 1) * 255
    return (levels.float() - mean) / std


def to_input(levels: Tensor, settings: TrainingSettings) -> Tensor:
    """The encoder's input (n, 3, px, px): `normalize`d levels, in the settings' memory layout."""
    return normalize(levels).contiguous(memory_format=memory_format(settings))
