"""Images of any kind as the settings want them: any number of channels, of 8 bits or 16.

What an image is, is told from how its file begins, never from its name. `views.reference` and
`views.fast` do the same for 8-bit RGB alone.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bt_ray.config import DataSettings, Pixels, Settings
from bt_ray.data.views import reference
from bt_ray.data.views.arrays import HEAD_BYTES, is_array, read_array
from bt_ray.data.views.channels import CONVERTED, fit_channels, without_alpha
from bt_ray.data.views.depth import has_deep_colours, is_tiff, read_deep, to_levels
from bt_ray.data.views.orientation import UPRIGHT, orientation_of, turned_size, upright
from bt_ray.data.views.tiff import read_tiff

Levels = NDArray[Any]
"""An image, (h, w, c), of whole levels: uint8 or uint16."""

_JPEG, _EXIF = b"\xff\xd8", b"Exif\0\0"
_EXIF_WITHIN = 2**16
"""Bytes of a JPEG in which its EXIF begins, if it has some."""
_GREY = ("1", "L", "LA", "La")
_TRANSPARENT = ("LA", "La", "PA", "RGBA", "RGBa")


def decode_raster(encoded: Any, data: DataSettings | Pixels) -> Levels:
    """The image in a buffer of bytes, (h, w, c), uint8 or uint16 as `bit_depth` says.

    Of grey, colour and transparency: with 1 or 3 channels wanted, an image is converted to grey
    (Pillow's luma) or to colour, and transparency is dropped; with any other number wanted, it must
    have as many.

    Raises: OSError if it cannot be decoded, has another number of channels, or more pixels than
      Pillow's limit.
    """
    try:
        values = _read(encoded, data)
    except OSError:
        raise
    except (Image.DecompressionBombError, *reference.OF_DAMAGED_FILES) as error:
        raise OSError(str(error)) from error
    return np.ascontiguousarray(fit_channels(to_levels(values, data.bit_depth), data.channels))


def _read(encoded: Any, data: DataSettings | Pixels) -> NDArray[Any]:
    """The image's numbers, upright if so wanted."""
    if is_array(_head(encoded)):
        return read_array(encoded, data.channels)
    if not data.is_rgb and is_tiff(encoded):
        values = read_tiff(encoded, data.channels)
        if values is not None:
            return values
    image = reference.open_image(encoded)
    orientation = orientation_of(image) if data.orientation == "exif" else UPRIGHT
    if data.is_rgb:
        values = np.asarray(reference.decode(encoded))
    else:
        values = _read_picture(image, encoded, data.channels)
    return values if orientation == UPRIGHT else upright(values, orientation)


def has_more_bits(encoded: Any, pixels: Pixels) -> bool:
    """Whether an image that decodes has numbers that 8 bits do not hold."""
    return _read(encoded, pixels).dtype not in (np.uint8, np.bool_)


def is_turned(encoded: Any) -> bool:
    """Whether an image that decodes has a camera's note that it is not upright."""
    if bytes(memoryview(encoded).cast("B")[: len(_JPEG)]) == _JPEG:
        start = bytes(memoryview(encoded).cast("B")[:_EXIF_WITHIN])
        if _EXIF not in start:
            return False
    try:
        with reference.open_image(encoded) as image:
            return orientation_of(image) != UPRIGHT
    except OSError:  # what others than Pillow read has no such note
        return False


def _head(encoded: Any) -> bytes:
    return bytes(memoryview(encoded).cast("B")[:HEAD_BYTES])


def _read_picture(image: Image.Image, encoded: Any, channels: int) -> NDArray[Any]:
    """The numbers of an image that Pillow has opened, (h, w) or (h, w, k)."""
    if has_deep_colours(image) and (deep := read_deep(encoded)) is not None:
        if _is_grey_with_alpha(image) and deep.ndim == 3 and deep.shape[2] == 4:
            deep = deep[..., ::3]  # OpenCV has made colours of the grey, as Pillow would
        return without_alpha(deep, channels)
    image = reference.load(image, encoded)
    if image.mode.startswith(("I", "F")):
        return np.asarray(image)
    return np.asarray(image.convert(_mode(image, channels)))


def _is_grey_with_alpha(image: Image.Image) -> bool:
    """Whether the file has grey and transparency, before anything is made of them."""
    return any("LA;" in str(tile[3]) for tile in getattr(image, "tile", ()))


def _mode(image: Image.Image, channels: int) -> str:
    """What Pillow is to make of the image: grey or colour, with its transparency if it counts."""
    has_alpha = image.mode in _TRANSPARENT or "transparency" in image.info
    is_kept = has_alpha and channels not in CONVERTED
    if image.mode in _GREY:
        return "LA" if is_kept else "L"
    return "RGBA" if is_kept else "RGB"


def size_of(encoded: Any, pixels: Pixels) -> tuple[int, int]:
    """Width and height of an image that decodes; of most kinds the header alone tells them."""
    if not is_array(_head(encoded)) and not is_tiff(encoded):
        with reference.open_image(encoded) as image:
            follows = pixels.orientation == "exif"
            return turned_size(image.size, orientation_of(image) if follows else UPRIGHT)
    height, width, _ = decode_raster(encoded, pixels).shape
    return width, height


def central_view(encoded: Any, settings: Settings) -> Levels:
    """The view that an encoder is evaluated on, (px, px, c): `reference.central` of the image.

    Raises: OSError if it cannot be decoded.
    """
    px, pixels = settings.views.image_px, settings.data.pixels
    if pixels.is_usual:
        return np.asarray(reference.central(reference.decode(encoded), px))
    levels = decode_raster(encoded, pixels)
    if pixels.is_rgb:
        return np.asarray(reference.central(Image.fromarray(levels), px))
    planes = [
        np.asarray(reference.central(Image.fromarray(plane), px))
        for plane in levels.transpose(2, 0, 1).astype(np.float32)
    ]
    whole: Levels = np.rint(np.stack(planes, axis=2)).clip(0, pixels.highest_level)
    return whole.astype(levels.dtype)
