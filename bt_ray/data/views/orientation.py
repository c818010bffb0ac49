"""The camera's note of how an image is to be turned (EXIF)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

UPRIGHT = 1
_LONG_SIDE_TURNS = (5, 6, 7, 8)


def orientation_of(image: Image.Image) -> int:
    """The note of an opened image, 1 to 8: 1 if it is upright, or has none that can be read.

    A TIFF's is part of how its pixels lie, which every reader follows: it counts as upright.
    """
    if image.format == "TIFF":
        return UPRIGHT
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, UPRIGHT)
    except (OSError, SyntaxError, ValueError, LookupError, TypeError):
        return UPRIGHT
    return found if isinstance(found, int) and 1 <= found <= 8 else UPRIGHT


def turned_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Width and height once the image is upright."""
    return (size[1], size[0]) if orientation in _LONG_SIDE_TURNS else size


def upright(values: NDArray[Any], orientation: int) -> NDArray[Any]:
    """The image (h, w, …) turned as its note says, as Pillow's `exif_transpose` does."""
    if orientation in _LONG_SIDE_TURNS:
        values = np.swapaxes(values, 0, 1)
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    return np.ascontiguousarray(values)
