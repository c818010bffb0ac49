"""One image, looked at: its size and kind, and what tells whether it is there twice."""

import hashlib
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import UnidentifiedImageError

from bt_ray.advice.fingerprint import PX, fingerprint
from bt_ray.data.sources import SourceImage
from bt_ray.data.views import reference
from bt_ray.data.views.depth import is_deep

_CHANNELS = {"Gray": 1, "YCbCr": 3, "RGB": 3}
_GREY_TO_LEVELS = 4
"""Levels by which the colours of a grey picture may differ once it was a JPEG."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How pixels are stored."""

    channels: int
    bits: int

    def __str__(self) -> str:
        names = {1: "grey", 3: "RGB", 4: "four channels (RGBA, CMYK)"}
        return f"{names.get(self.channels, f'{self.channels} channels')}, {self.bits} bits"


@dataclass(frozen=True, kw_only=True)
class Glance:
    """What was seen of an image that can be decoded."""

    name: str
    width: int
    height: int
    kind: Kind
    is_grey: bool
    """Whether it shows no colour, however it is stored."""
    digest: bytes
    """Of the encoded image: equal for the same file."""
    fingerprint: NDArray[np.uint64]
    """(4,): nearly the same for the same picture."""

    @property
    def shorter_side(self) -> int:
        """Pixels."""
        return min(self.width, self.height)


@dataclass(frozen=True, kw_only=True)
class Unreadable:
    """An image that cannot be decoded."""

    name: str
    fault: str


def glance(image: SourceImage) -> Glance | Unreadable:
    """What can be seen of an image; JPEGs are decoded in a small size, which is faster."""
    try:
        small, (width, height), kind = _decode(image.encoded)
    except OSError as error:
        return Unreadable(name=image.sample_id, fault=str(error))
    thumbnail: Any = cv2.resize(small, (PX, PX), interpolation=cv2.INTER_AREA)
    return Glance(
        name=image.sample_id,
        width=width,
        height=height,
        kind=kind,
        is_grey=bool(np.ptp(thumbnail, axis=2).max() <= _GREY_TO_LEVELS),
        digest=hashlib.sha256(image.encoded).digest(),
        fingerprint=fingerprint(cv2.cvtColor(thumbnail, cv2.COLOR_RGB2GRAY)),
    )


def _decode(encoded: bytes) -> tuple[NDArray[np.uint8], tuple[int, int], Kind]:
    """RGB levels (h, w, 3) of the image or of a smaller one; its width and height; its kind.

    Raises: OSError if it cannot be decoded.
    """
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(encoded)
        if colours in _CHANNELS and height * width <= reference.MOST_PIXELS:
            small = simplejpeg.decode_jpeg(encoded, "RGB", min_height=PX, min_width=PX)
            return small, (width, height), Kind(channels=_CHANNELS[colours], bits=8)
    except ValueError:
        pass
    picture = reference.decode(encoded)
    return np.array(picture), picture.size, _kind(encoded)


def _kind(encoded: bytes) -> Kind:
    """The kind of an image that decodes."""
    try:
        opened = reference.open_image(encoded)
    except UnidentifiedImageError:  # OpenCV reads it, as Pillow does not: deep colours
        return Kind(channels=3, bits=16)
    channels = 3 if opened.mode == "P" else len(opened.getbands())
    return Kind(channels=channels, bits=16 if is_deep(opened) else 8)
