"""Images with their masks, looked at first, and then brought to squares of one size."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from bt_ray.config import DataSettings
from bt_ray.data.views.raster import Levels, decode_raster, size_of
from bt_ray.errors import DataError
from bt_ray.segmentation.layouts import MaskedImages
from bt_ray.segmentation.masks import IGNORED, check_indices, read_mask

_THREADS = 4


@dataclass(frozen=True)
class Pair:
    """An image's levels as a square (c, px, px), and its mask (h, w) at its own size."""

    levels: Levels
    mask: NDArray[np.uint8]


def count_classes(files: MaskedImages) -> int:
    """The highest index in all masks, and one more. Raises: DataError if all pixels are ignored."""

    def highest(file: Path) -> int:
        mask = read_mask(file)
        return int(mask[mask != IGNORED].max(initial=0))

    with ThreadPoolExecutor(_THREADS) as pool:
        return 1 + max(pool.map(highest, files.masks))


def check_pairs(files: MaskedImages, num_classes: int, data: DataSettings) -> None:
    """Raises DataError unless each mask is as large as its image and holds indices of classes.

    All pixels of all masks together must not be ignored, either.
    """

    def check(image: Path, file: Path) -> bool:
        mask = read_mask(file)
        check_indices(mask, num_classes, file)
        width, height = _size(image, data)
        if mask.shape != (height, width):
            raise DataError(
                f"The mask {file} has {mask.shape[1]}×{mask.shape[0]} pixels, and its image "
                f"{image} {width}×{height}; they must have the same."
            )
        return bool((mask != IGNORED).any())

    with ThreadPoolExecutor(_THREADS) as pool:
        if not any(list(pool.map(check, files.images, files.masks))):
            raise DataError(
                f"All pixels of all {len(files)} masks, such as {files.masks[0]}, are {IGNORED}, "
                "that is, ignored; nothing can be learnt from them or scored."
            )


def read_pairs(files: MaskedImages, px: int, data: DataSettings) -> Iterator[list[Pair]]:
    """All images with their masks, a few at a time.

    Images are stretched to squares of `px`, so that a cell of the features lies where the same
    share of the image does. Raises: DataError if an image cannot be decoded.
    """

    def read(image: Path, mask: Path) -> Pair:
        levels = resize_levels(_decode(image, data), px)
        return Pair(np.ascontiguousarray(levels.transpose(2, 0, 1)), read_mask(mask))

    at_once = 4 * _THREADS
    with ThreadPoolExecutor(_THREADS) as pool:
        for first in range(0, len(files), at_once):
            some = slice(first, first + at_once)
            yield list(pool.map(read, files.images[some], files.masks[some]))


def resize_levels(levels: Levels, px: int) -> Levels:
    """An image (h, w, c) as a square: areas are averaged where it shrinks, else bilinear."""
    shrinks = px < min(levels.shape[:2])
    way = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    resized: Levels = cv2.resize(levels, (px, px), interpolation=way).reshape(px, px, -1)
    return resized


def resize_mask(mask: NDArray[np.uint8], px: int) -> NDArray[np.uint8]:
    """A mask (h, w) as a square: each pixel is that of the mask in its middle."""
    return np.asarray(cv2.resize(mask, (px, px), interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)


def _decode(file: Path, data: DataSettings) -> Levels:
    try:
        return decode_raster(file.read_bytes(), data)
    except OSError as error:
        raise DataError(_undecodable(file, error)) from error


def _size(file: Path, data: DataSettings) -> tuple[int, int]:
    try:
        return size_of(file.read_bytes(), data.pixels)
    except OSError as error:
        raise DataError(_undecodable(file, error)) from error


def _undecodable(file: Path, error: OSError) -> str:
    return f"{file} cannot be decoded ({error}); unpack it again, or take it out with its mask."
