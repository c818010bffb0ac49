"""Brings pixels of any numbers to the levels that all views have, of 8 bits or of 16.

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
"""What `to_levels` does for 8 bits, for people."""

_LEVELS = 255
_UPPER_BYTE = 257
_BITS = (8, 10, 12, 14, 16)
_COLOURS = ("RGB", "RGBA", "RGBX", "LA")
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def to_levels(values: NDArray[Any], bits: int = 8) -> NDArray[Any]:
    """The same picture in levels of 0 to 255 (uint8), by `RULE`, or of 0 to 65,535 (uint16).

    For 16 bits whole numbers up to 65,535 stay, those of 8 bits are multiplied by 257, and the rest
    of the rule is the same.

    Args:
      values: of any shape, whole numbers or floats; what is not finite becomes the smallest.
      bits: 8 or 16.
    Raises: OSError if none of them is finite.
    """
    values = _finite(values)
    low, high = float(values.min()), float(values.max())
    is_whole = values.dtype.kind in "iu" or (high > 1 and bool((values == np.floor(values)).all()))
    if is_whole and low >= 0 and high < 2 ** _BITS[-1]:
        return _whole_levels(values, high, bits)
    kind, highest = _kind(bits), float(2**bits - 1)
    if not 0 <= low <= high <= 1:
        if low == high:
            return np.full(values.shape, 2 ** (bits - 1), kind)
        values = (values.astype(np.float64) - low) / (high - low)
    elif bits > _BITS[0]:
        values = values.astype(np.float64)  # a float of 16 bits has no 65,535
    return np.rint(values * highest).astype(kind)


def _kind(bits: int) -> type[np.uint8] | type[np.uint16]:
    return np.uint8 if bits == _BITS[0] else np.uint16


def _finite(values: NDArray[Any]) -> NDArray[Any]:
    """The values, in which the smallest stands for what is not finite."""
    finite = np.isfinite(values)
    if finite.all():
        return values
    if not finite.any():
        raise OSError("none of its pixels is a finite number")
    return np.where(finite, values, values[finite].min())


def _whole_levels(values: NDArray[Any], high: float, bits: int) -> NDArray[Any]:
    """Levels of whole numbers from 0 to 65,535, of which `high` is the largest."""
    if bits == _BITS[0]:
        shift = next(deep for deep in _BITS if high < 2**deep) - bits
        return (values.astype(np.uint32) >> shift).astype(np.uint8)
    if values.dtype == np.uint8:
        return values.astype(np.uint16) * np.uint16(_UPPER_BYTE)
    return values.astype(np.uint16)


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


def read_deep(encoded: Any) -> NDArray[Any] | None:
    """The image's numbers (h, w) or (h, w, k), red first; None if OpenCV cannot read them.

    So it is where there is no OpenCV: a registered encoder of 8-bit RGB is used without it.
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
    if values is not None and values.ndim == 3 and values.shape[2] > 2:
        return np.dstack((values[..., 2::-1], values[..., 3:]))  # OpenCV's are blue first
    return values  # type: ignore[no-any-return]


def decode_deep(encoded: Any) -> Image.Image | None:
    """The RGB image, with all bits of its channels considered; None if OpenCV cannot read it."""
    values = read_deep(encoded)
    if values is None:
        return None
    if values.ndim == 3:
        values = values[..., :3] if values.shape[2] > 2 else values[..., 0]
    levels = values if values.dtype == np.uint8 else to_levels(values)
    return Image.fromarray(np.ascontiguousarray(levels)).convert("RGB")
