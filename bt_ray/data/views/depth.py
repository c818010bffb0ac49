"""Brings pixels of more than 8 bits to the 256 levels that all views have.

An image does not say what range its numbers have, so its own pixels decide, by the rule of
`to_levels`. It never makes a picture black that is not.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

RULE = (
    "whole numbers are shifted from the smallest of 8, 10, 12, 14 and 16 bits that holds the "
    "image's largest one, numbers from 0 to 1 are multiplied by 255, and any others are stretched "
    "from the image's smallest to its largest"
)
"""What `to_levels` does, for people."""

_LEVELS = 255
_BITS = (8, 10, 12, 14, 16)
_COLOURS = ("RGB", "RGBA", "RGBX", "LA")
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def to_levels(values: NDArray[Any]) -> NDArray[np.uint8]:
    """The same picture in levels of 0 to 255, by `RULE`.

    Args:
      values: of any shape, whole numbers or floats; what is not finite becomes the smallest.
    """
    finite = np.isfinite(values)
    if not finite.all():
        least = values[finite].min() if finite.any() else 0
        values = np.where(finite, values, least)
    low, high = float(values.min()), float(values.max())
    is_whole = values.dtype.kind in "iu" or (high > 1 and bool((values == np.floor(values)).all()))
    if is_whole and low >= 0 and high < 2 ** _BITS[-1]:
        bits = next(bits for bits in _BITS if high < 2**bits)
        return (values.astype(np.uint32) >> (bits - 8)).astype(np.uint8)
    if not 0 <= low <= high <= 1:
        if low == high:
            return np.full(values.shape, 128, np.uint8)
        values = (values.astype(np.float64) - low) / (high - low)
    return np.rint(values * 255.0).astype(np.uint8)


def is_deep(image: Image.Image) -> bool:
    """Whether an image, opened and not yet loaded, has more than 8 bits a channel."""
    return image.mode.startswith(("I", "F")) or has_deep_colours(image)


def has_deep_colours(image: Image.Image) -> bool:
    """Whether it has several channels of 16 bits, of which Pillow gives the upper eight."""
    if image.mode not in _COLOURS:
        return False
    told = [tile[3] for tile in getattr(image, "tile", ())]  # such as "RGB;16B"; in PPM: (…, 65535)
    return any(";16" in str(words) for words in told) or (
        image.format == "PPM"
        and any(isinstance(w, int) and w > _LEVELS for words in told for w in tuple(words))
    )


def is_tiff(encoded: Any) -> bool:
    """Whether the bytes begin as a TIFF, of which Pillow reads some kinds only."""
    return bytes(memoryview(encoded)[:4]) in _TIFF


def decode_deep(encoded: Any) -> Image.Image | None:
    """The RGB image, with all bits of its channels considered; None if OpenCV cannot read it.

    So it is where there is no OpenCV: a registered encoder is used without it.
    """
    try:
        import cv2
    except ImportError:
        return None
    loud = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        values: Any = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    finally:
        cv2.utils.logging.setLogLevel(loud)
    if values is None:
        return None
    if values.ndim == 3:
        values = values[..., 2::-1] if values.shape[2] > 2 else values[..., 0]
    levels = values if values.dtype == np.uint8 else to_levels(values)
    return Image.fromarray(np.ascontiguousarray(levels)).convert("RGB")
