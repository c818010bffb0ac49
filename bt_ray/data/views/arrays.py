"""Image files that are arrays of numbers: NumPy's and DICOM's, known by how they begin."""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bt_ray.data.views.dicom import is_dicom, read_dicom
from bt_ray.data.views.limits import refuse_large

HEAD_BYTES = 132
"""So many bytes tell whether a file is one of these."""
_NUMPY = b"\x93NUMPY"
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def is_array(head: bytes) -> bool:
    """Whether a file that begins so is one of these."""
    return head.startswith(_NUMPY) or is_dicom(head)


def read_array(encoded: Any, channels: int) -> NDArray[Any]:
    """The numbers in the file, (h, w) or (h, w, k), as they are stored.

    Args:
      channels: how many are wanted, which tells what an axis or a frame is.
    Raises: OSError if there is no image in it.
    """
    octets = bytes(memoryview(encoded).cast("B"))
    return (
        _read_numpy(octets, channels) if octets.startswith(_NUMPY) else read_dicom(octets, channels)
    )


def _read_numpy(octets: bytes, channels: int) -> NDArray[Any]:
    """An array (h, w), (h, w, k), or (c, h, w) where c are `channels` and the last axis is not."""
    _check_header(octets)
    values: NDArray[Any] = np.load(io.BytesIO(octets), allow_pickle=False)
    if values.ndim == 3 and values.shape[0] == channels != values.shape[2]:
        values = np.moveaxis(values, 0, 2)
    if values.ndim == 3 and values.shape[2] not in (1, 3, channels):
        raise OSError(
            f"it is an array of shape {values.shape}, and neither its first nor its last axis is "
            f"data.channels={channels}"
        )
    refuse_large(values.shape[1], values.shape[0])
    return values


def _check_header(octets: bytes) -> None:
    """Raises OSError unless the file holds a whole array of numbers that may be an image.

    It is told from the header alone, as NumPy takes memory for whatever a header says.
    """
    stream = io.BytesIO(octets)
    try:
        shape, _, dtype = _HEADERS[np.lib.format.read_magic(stream)](stream)
    except (KeyError, ValueError) as error:
        raise OSError(f"its header is no NumPy array's ({error})") from error
    if dtype.kind not in "biuf":
        kind = "objects" if dtype.hasobject else f"{dtype}"
        raise OSError(f"it is an array of {kind}, not of numbers")
    if len(shape) not in (2, 3):
        raise OSError(f"it is an array of shape {shape}, and an image has two or three axes")
    count = int(np.prod([int(side) for side in shape], dtype=object))
    if count == 0:
        raise OSError(f"it is an empty array, of shape {shape}")
    if count * dtype.itemsize > len(octets) - stream.tell():
        raise OSError(f"it is cut short: an array of shape {shape} is longer")
