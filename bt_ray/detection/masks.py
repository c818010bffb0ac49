"""Masks as COCO stores them: compressed run lengths, down the columns of the image."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from bt_ray.errors import LaunchError


def encode_mask(mask: NDArray[np.uint8]) -> bytes:
    """The run lengths of a mask (h, w) of zeros and ones. Raises: LaunchError."""
    counts: bytes = _api().encode(np.asfortranarray(mask))["counts"]
    return counts


def decode_mask(counts: bytes, height: int, width: int) -> NDArray[np.uint8]:
    """The mask (h, w) of these run lengths, zeros and ones. Raises: LaunchError."""
    mask: NDArray[np.uint8] = _api().decode({"size": [height, width], "counts": counts})
    return mask


def scale_mask(mask: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """The mask at another size: each pixel is its nearest one's."""
    return np.asarray(cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST), np.uint8)


def _api() -> Any:
    try:
        from faster_coco_eval.core import mask
    except ImportError as error:
        raise LaunchError(
            f"Detection needs {error.name}: `pip install 'bt-ray[detection]'`."
        ) from error
    return mask
