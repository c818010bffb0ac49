"""Turns a view about its middle: by any angle, by quarters, upside down."""

from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bt_ray.data.views.draw import ViewParameters

Pixels = NDArray[Any]
View = TypeVar("View", Pixels, Image.Image)

_MOST_CHANNELS = 4
"""That OpenCV warps at once."""


def turn(view: View, parameters: ViewParameters, row: int) -> View:
    """View `row`, rotated, then turned by quarters, then flipped vertically, as was drawn for it.

    A rotation interpolates between four pixels, and rounds to whole levels. Beyond its border the
    view is reflected, so that no corner is black.

    Args:
      view: (px, px, c), or an image of Pillow's; the same is returned.
    """
    degrees, quarters = float(parameters.rotation_degrees[row]), int(parameters.quarter_turns[row])
    is_flipped = bool(parameters.flip_vertically[row])
    if not (degrees or quarters or is_flipped):
        return view
    if isinstance(view, Image.Image):
        return Image.fromarray(_turn(np.asarray(view), degrees, quarters, is_flipped))
    return _turn(view, degrees, quarters, is_flipped)


def _turn(view: Pixels, degrees: float, quarters: int, is_flipped: bool) -> Pixels:
    turned = np.rot90(_rotate(view, degrees) if degrees else view, quarters)
    return np.ascontiguousarray(turned[::-1] if is_flipped else turned)


def _rotate(view: Pixels, degrees: float) -> Pixels:
    """The view rotated counter-clockwise."""
    px, channels = view.shape[0], view.shape[2]
    middle = (px - 1) / 2
    matrix = cv2.getRotationMatrix2D((middle, middle), degrees, 1.0)
    parts = [
        cv2.warpAffine(
            np.ascontiguousarray(view[..., first : first + _MOST_CHANNELS]),
            matrix,
            (px, px),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REFLECT_101,
        ).reshape(px, px, -1)
        for first in range(0, channels, _MOST_CHANNELS)
    ]
    return np.concatenate(parts, axis=2)
