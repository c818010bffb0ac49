"""TIFFs that Pillow does not read, by tifffile: many channels, several pages, floats."""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bt_ray.data.views.channels import without_alpha
from bt_ray.data.views.limits import refuse_large
from bt_ray.data.views.orientation import UPRIGHT, upright

_MOST_OF_PILLOW = 4
"""Samples of 8 bits: palettes, CMYK and YCbCr are Pillow's."""


def read_tiff(encoded: Any, channels: int) -> NDArray[Any] | None:
    """The numbers in the file, (h, w) or (h, w, k), as they are stored; None if Pillow reads them.

    Pages of one channel each are the channels, if there are as many as `channels`; else the first
    page is the image.

    Raises: OSError if it cannot be read.
    """
    import tifffile

    try:
        with tifffile.TiffFile(io.BytesIO(encoded)) as file:
            pages = _channel_pages(file, channels)
            if pages is None and _is_pillows(file.pages[0]):
                return None
            if pages is not None:
                return np.concatenate([_page(page) for page in pages], axis=2)
            values = _page(file.pages[0])
            return without_alpha(values, channels) if _has_alpha(file.pages[0]) else values
    except OSError:
        raise
    except (
        tifffile.TiffFileError, ArithmeticError, AttributeError, ImportError, LookupError,
        RuntimeError, TypeError, ValueError,
    ) as error:  # fmt: skip
        raise OSError(f"tifffile cannot read it: {error}") from error


def _channel_pages(file: Any, channels: int) -> list[Any] | None:
    """The pages that are the channels; None if the first page is the image."""
    if channels == 1 or len(file.pages) != channels:
        return None
    pages = list(file.pages)
    first = pages[0]
    is_plane = [
        page.samplesperpixel == 1 and page.shape == first.shape and page.dtype == first.dtype
        for page in pages
    ]
    return pages if all(is_plane) else None


def _is_pillows(page: Any) -> bool:
    return bool(page.dtype == np.uint8 and page.samplesperpixel <= _MOST_OF_PILLOW)


def _has_alpha(page: Any) -> bool:
    """Whether a channel beyond grey or colour is transparency."""
    return bool(page.extrasamples) and page.photometric.name in ("RGB", "MINISBLACK", "MINISWHITE")


def _page(page: Any) -> NDArray[Any]:
    """A page's numbers, (h, w, k)."""
    refuse_large(page.imagewidth, page.imagelength)
    if set(page.axes) - set("YXS") or not {"Y", "X"} <= set(page.axes):
        raise OSError(f"its pages have the axes {page.axes}, and an image has Y, X and channels")
    values: NDArray[Any] = page.asarray(maxworkers=1)
    if page.axes[0] == "S":
        values = np.moveaxis(values, 0, 2)
    values = values.reshape(*values.shape[:2], -1)
    if page.photometric.name == "MINISWHITE" and values.dtype.kind == "u":
        values = ((1 << page.bitspersample) - 1 - values).astype(values.dtype)
    tag = page.tags.get("Orientation")
    return upright(values, UPRIGHT if tag is None else int(tag.value))
