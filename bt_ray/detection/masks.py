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


def encode_polygons(polygons: list[list[float]], height: int, width: int) -> bytes:
    """The run lengths of what lies within any of the polygons (x, y, x, y, …, in pixels).

    Raises: LaunchError.
    """
    api = _api()
    parts = api.frPyObjects(polygons, height, width)
    counts: bytes = (parts[0] if len(parts) == 1 else api.merge(parts))["counts"]
    return counts


def encode_runs(runs: list[int], height: int, width: int) -> bytes:
    """The run lengths, compressed: of zeros, of ones, of zeros, …, down the columns.

    Raises: LaunchError.
    """
    counts: bytes = _api().frPyObjects({"size": [height, width], "counts": runs}, height, width)[
        "counts"
    ]
    return counts


def read_runs(counts: bytes) -> list[int]:
    """The numbers of compressed run lengths. Raises: IndexError, ValueError if they are cut short.

    Each number but the first two is stored as the difference to the last but one, in groups of
    five bits, the lowest first; the sixth bit says that another group follows.

    Source: COCO API, `rleToString`.
    """
    runs: list[int] = []
    at = 0
    while at < len(counts):
        number = shift = 0
        group = 0b100000
        while group & 0b100000:
            group = counts[at] - 48
            if not 0 <= group < 64:
                raise ValueError(f"{counts[at]:c} is no group of bits")
            number |= (group & 0b11111) << shift
            at, shift = at + 1, shift + 5
        if group & 0b10000:
            number -= 1 << shift
        runs.append(number + (runs[-2] if len(runs) > 2 else 0))
    return runs


def scale_mask(mask: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """The mask at another size: each pixel is that one's in which its centre lies."""
    return np.asarray(
        cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT), np.uint8
    )


def _api() -> Any:
    try:
        from faster_coco_eval.core import mask
    except ImportError as error:
        raise LaunchError(
            f"Detection needs {error.name}: `pip install 'bt-ray[detection]'`."
        ) from error
    return mask
