"""Brings an image to the channels that the settings want."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

CONVERTED = (1, 3)
"""Grey and colour: images are converted to these; of any other number they must be."""

_LUMA = (19595, 38470, 7471)
"""Of red, green and blue in 65,536ths: Pillow's, of ITU-R BT.601."""


def fit_channels(levels: NDArray[Any], channels: int) -> NDArray[Any]:
    """The image (h, w, `channels`) of one with levels (h, w) or (h, w, k), of the same type.

    Raises: OSError if it has another number of channels, and none of the two is grey or colour.
    """
    if levels.ndim == 2:
        levels = levels[..., None]
    found = levels.shape[2]
    if found == channels:
        return levels
    if channels == 3 and found == 1:
        return np.repeat(levels, 3, axis=2)
    if channels == 1 and found == 3:
        return _luma(levels)
    raise OSError(f"it has {found} channel{'s' * (found > 1)}, and data.channels is {channels}")


def without_alpha(values: NDArray[Any], channels: int) -> NDArray[Any]:
    """The values (h, w, k) of grey or colour, of which transparency is the last if k is even.

    It is dropped where images are converted.
    """
    has_alpha = values.ndim == 3 and values.shape[2] in (2, 4)
    return values[..., :-1] if has_alpha and channels in CONVERTED else values


def _luma(levels: NDArray[Any]) -> NDArray[Any]:
    """The grey (h, w, 1) of colours (h, w, 3), rounded to whole levels as Pillow rounds."""
    red, green, blue = (levels[..., i].astype(np.uint32) * weight for i, weight in enumerate(_LUMA))
    grey: NDArray[Any] = (red + green + blue + 0x8000) >> 16
    return grey.astype(levels.dtype)[..., None]
