"""Masks: of each pixel the index of its class, in a PNG with a palette or in grey."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from bt_ray.errors import DataError

IGNORED = 255
"""Index of pixels that are neither trained on nor counted, as in VOC."""
_INDEXED = ("P", "L", "1")


def read_mask(file: Path) -> NDArray[np.uint8]:
    """Class indices (h, w) of an image: a palette's own indices, or levels of grey of 8 bits.

    Raises: DataError if it is missing, damaged, or has colours in place of indices.
    """
    try:
        with Image.open(file) as image:
            image.load()
            mode, indices = image.mode, np.asarray(image)
    except FileNotFoundError as error:
        raise DataError(
            f"The mask {file} is missing; unpack it, or leave its image out."
        ) from error
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
        raise DataError(f"The mask {file} cannot be decoded ({error}).") from error
    if mode not in _INDEXED:
        raise DataError(
            f"The mask {file} must have one index a pixel: a PNG with a palette, or grey of 8 "
            f"bits; Pillow calls this one's pixels {mode}."
        )
    return indices.astype(np.uint8)


def check_indices(mask: NDArray[np.uint8], num_classes: int, file: Path) -> None:
    """Raises DataError if a pixel is neither of the classes nor ignored."""
    unknown = np.setdiff1d(np.unique(mask), [*range(num_classes), IGNORED])
    if len(unknown):
        raise DataError(
            f"The mask {file} has the index {', '.join(map(str, unknown[:5]))}, and there are "
            f"{num_classes} classes, 0 to {num_classes - 1} ({IGNORED} is ignored); mend the mask, "
            "or name all classes (--classes)."
        )
