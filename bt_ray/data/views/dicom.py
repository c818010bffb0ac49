"""Pixels of DICOM files, by pydicom: the numbers as they are stored.

No window and no rescaling (to Hounsfield units, for example) is applied: all images of a set are
treated alike, by their stored numbers.
"""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bt_ray.data.views.limits import refuse_large

_MARK, _PLACE = b"DICM", 128
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


def is_dicom(head: bytes) -> bool:
    """Whether a file that begins so is DICOM's."""
    return head[_PLACE : _PLACE + len(_MARK)] == _MARK


def read_dicom(octets: bytes, channels: int) -> NDArray[Any]:
    """The numbers in the file, (h, w) or (h, w, k), from 0 and rising with brightness.

    Numbers with a sign are shifted by half of their range; where low numbers are bright
    (MONOCHROME1), they are inverted; frames are channels.

    Raises: OSError if pydicom is not installed or cannot read the file, if there are no pixels in
      it, or not as many frames as `channels`.
    """
    try:
        import pydicom
        from pydicom.errors import InvalidDicomError
        from pydicom.pixels.utils import pixel_array
    except ImportError as error:
        raise OSError(
            "it is a DICOM file, which pydicom reads: install bt-ray[dicom], or pydicom"
        ) from error
    try:
        content = pydicom.dcmread(io.BytesIO(octets))
        _check(content, channels)
        values: NDArray[Any] = pixel_array(content)
    except OSError:
        raise
    except (
        InvalidDicomError, AttributeError, LookupError, NotImplementedError, RuntimeError,
        TypeError, ValueError,
    ) as error:  # fmt: skip
        raise OSError(f"pydicom cannot read it: {error}") from error
    if "FloatPixelData" not in content and "DoubleFloatPixelData" not in content:
        values = _shown(values, content)
    return np.moveaxis(values, 0, 2) if int(content.get("NumberOfFrames") or 1) > 1 else values


def _check(content: Any, channels: int) -> None:
    """Raises OSError unless there are pixels in it, and as many frames as channels."""
    if not any(name in content for name in _PIXELS):
        raise OSError("it is a DICOM file without pixels")
    refuse_large(int(content.Columns), int(content.Rows))
    frames = int(content.get("NumberOfFrames") or 1)
    if frames > 1 and int(content.SamplesPerPixel) > 1:
        raise OSError(f"it has {frames} frames in colour, of which none is chosen")
    if frames > 1 and frames != channels:
        raise OSError(f"it has {frames} frames, and data.channels is {channels}")


def _shown(values: NDArray[Any], content: Any) -> NDArray[Any]:
    """Stored whole numbers as levels from 0 to 2 ** BitsStored − 1; a palette's colours."""
    bits, kind = int(content.BitsStored), str(content.PhotometricInterpretation)
    highest = (1 << bits) - 1
    if kind == "PALETTE COLOR":
        from pydicom.pixels.processing import apply_color_lut

        return np.asarray(apply_color_lut(values, content))[..., :3]
    levels = values.astype(np.int64)
    if content.get("PixelRepresentation", 0):
        levels += (highest + 1) // 2
    levels &= highest  # above them old files keep overlays
    if kind == "MONOCHROME1":
        levels = highest - levels
    return levels.astype(np.uint16 if bits > 8 else np.uint8) if bits <= 16 else levels
