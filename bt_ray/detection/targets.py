"""An image's objects as torchvision's detectors want them, in pixels of its scene."""

import numpy as np
import torch
from torch import Tensor

from bt_ray.detection.annotations import Objects
from bt_ray.detection.masks import decode_mask, scale_mask
from bt_ray.detection.scenes import SceneParameters

_LEAST_PX = 1e-5
Target = dict[str, Tensor]
"""`boxes` float32 (m, 4), `labels` int64 (m,) from 1 on (0 is the background), and, if there are
masks, `masks` uint8 (m, h, w), with the sides of the scene."""


def build_target(
    objects: Objects, parameters: SceneParameters, row: int, *, masks: bool = False
) -> Target:
    """The objects of an image that a detector learns.

    They are all but crowds, and but those of which scaling has left less than 1e-5 pixels of
    either side, as in detectron2.

    Args:
      parameters: of the scenes of a batch, of which the image is number `row`.
      masks: whether their masks are wanted, too; the objects have them then.
    """
    width, height = int(parameters.widths[row]), int(parameters.heights[row])
    scale = np.array([width / objects.width, height / objects.height] * 2, np.float32)
    boxes = objects.boxes * scale
    if parameters.flip[row]:
        boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
    has_area = (boxes[:, 2:] - boxes[:, :2] > _LEAST_PX).all(axis=1)
    taken = np.flatnonzero(~objects.is_crowd & has_area)
    target = {
        "boxes": torch.from_numpy(boxes[taken]),
        "labels": torch.from_numpy(objects.labels[taken] + 1),
    }
    if masks:
        target["masks"] = _masks(objects, taken, height, width, bool(parameters.flip[row]))
    return target


def _masks(
    objects: Objects, taken: np.ndarray, height: int, width: int, is_flipped: bool
) -> Tensor:
    """Masks uint8 (m, h, w) of the objects that are taken."""
    scaled = np.zeros((len(taken), height, width), np.uint8)
    for place, number in zip(scaled, taken, strict=True):
        assert objects.masks is not None
        mask = decode_mask(objects.masks[number], objects.height, objects.width)
        np.copyto(place, scale_mask(mask, height, width))
    return torch.from_numpy(scaled[:, :, ::-1].copy() if is_flipped else scaled)
