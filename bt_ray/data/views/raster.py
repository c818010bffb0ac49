"""Images that are not 8-bit RGB: any number of channels, of 8 or 16 bits."""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bt_ray.config import DataSettings, Settings
from bt_ray.data.views import reference

_NUMPY = b"\x93NUMPY"


def decode_raster(encoded: Any, data: DataSettings) -> NDArray[Any]:
    """The image, (h, w, c), uint8 or uint16 as `data.bit_depth` says.

    Raises: OSError if it cannot be decoded, or has another number of channels.
    """
    octets = bytes(memoryview(encoded))
    if octets.startswith(_NUMPY):
        pixels: NDArray[Any] = np.load(io.BytesIO(octets), allow_pickle=False)
    else:
        image = reference.load(reference.open_image(octets), octets)
        pixels = np.asarray(image)
        if data.channels == 1 and pixels.ndim == 3:
            pixels = np.asarray(image.convert("L"))
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    if pixels.shape[2] != data.channels:
        raise OSError(f"it has {pixels.shape[2]} channels, and data.channels is {data.channels}")
    if data.bit_depth == 8:
        return pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8)
    return pixels if pixels.dtype == np.uint16 else pixels.astype(np.uint16) * 257


def central_view(encoded: Any, settings: Settings) -> NDArray[Any]:
    """The evaluated view, (px, px, c). Raises: OSError if it cannot be decoded."""
    px, data = settings.views.image_px, settings.data
    if data.is_rgb:
        return np.asarray(reference.central(reference.decode(encoded), px))
    pixels = decode_raster(encoded, data)
    planes = [
        np.asarray(reference.central(Image.fromarray(plane.astype(np.float32)), px))
        for plane in pixels.transpose(2, 0, 1)
    ]
    whole = np.rint(np.stack(planes, axis=2)).clip(0, data.highest_level)
    return np.asarray(whole.astype(pixels.dtype))
