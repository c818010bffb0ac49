"""Image files that are not 8-bit RGB, as tests need them."""

import io
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image


def levels(
    seed: int = 0, *, channels: int = 5, dtype: Any = np.uint16, size: tuple[int, int] = (12, 9)
) -> NDArray[Any]:
    """Random levels (h, w, c) of the whole range, that no other seed has; `size` is (w, h)."""
    shape = (size[1], size[0], channels)
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape, dtype)


def npy(values: NDArray[Any], **options: Any) -> bytes:
    """A NumPy file."""
    buffer = io.BytesIO()
    np.save(buffer, values, **options)
    return buffer.getvalue()


def tiff(values: NDArray[Any], **options: Any) -> bytes:
    """A TIFF by tifffile."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, **options)
    return buffer.getvalue()


def pages(values: NDArray[Any]) -> bytes:
    """A TIFF of one page for each channel of (h, w, c)."""
    return tiff(np.moveaxis(values, 2, 0), photometric="minisblack")


def pillow(values: NDArray[Any], kind: str = "PNG", **options: Any) -> bytes:
    """A file by Pillow."""
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, kind, **options)
    return buffer.getvalue()


def dicom(values: NDArray[Any], *, bits: int = 16, pixels: bool = True, **fields: Any) -> bytes:
    """A DICOM file of stored numbers (h, w), (frames, h, w) or (h, w, 3), uncompressed."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    content = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    content.SOPClassUID, content.SOPInstanceUID = (
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID,
    )  # fmt: skip
    if pixels:
        in_colour = values.ndim == 3 and values.shape[2] == 3
        frames = values.shape[0] if values.ndim == 3 and not in_colour else 1
        content.Rows, content.Columns = values.shape[-2:] if not in_colour else values.shape[:2]
        content.SamplesPerPixel = 3 if in_colour else 1
        content.PhotometricInterpretation = "RGB" if in_colour else "MONOCHROME2"
        if in_colour:
            content.PlanarConfiguration = 0
        if frames > 1:
            content.NumberOfFrames = frames
        content.BitsAllocated = 8 * values.dtype.itemsize
        content.BitsStored, content.HighBit = bits, bits - 1
        content.PixelRepresentation = int(values.dtype.kind == "i")
        content.PixelData = values.tobytes()
    for name, value in fields.items():
        setattr(content, name, value)
    buffer = io.BytesIO()
    content.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
