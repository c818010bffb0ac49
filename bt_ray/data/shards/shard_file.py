"""Writes one shard, a Parquet file, row group by row group."""

import hashlib
import io
import struct
from collections.abc import Iterable, Iterator
from itertools import islice

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
from PIL import Image, UnidentifiedImageError

from bt_ray.config import Pixels
from bt_ray.data.location import first_line
from bt_ray.data.shards.manifest import COLUMNS, SAMPLES, Shard, pack_footer
from bt_ray.data.sources import SourceImage
from bt_ray.data.views import raster
from bt_ray.data.views.arrays import HEAD_BYTES, is_array
from bt_ray.data.views.depth import is_deep, is_tiff
from bt_ray.data.views.raster import decode_raster, size_of
from bt_ray.data.views.reference import decode, load, open_image
from bt_ray.errors import DataError

RESAMPLING, JPEG_QUALITY = "lanczos", 95
_KEPT_MODES = ("L", "RGB")
_JPEG = b"\xff\xd8"
_USUAL = Pixels()


class Checksum(io.RawIOBase):
    """A stream that writes to another one and computes the SHA-256 of what is written."""

    def __init__(self, stream: pa.NativeFile) -> None:
        self._stream, self._place, self.digest = stream, 0, hashlib.sha256()

    def writable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """Bytes written."""
        return self._place

    def write(self, content: bytes) -> int:  # type: ignore[override]
        """Writes all of `content`."""
        self._stream.write(content)
        self.digest.update(content)
        self._place += len(content)
        return len(content)


def write_shard_file(
    filesystem: pa.fs.FileSystem,
    path: str,
    images: Iterator[SourceImage],
    *,
    rows_per_row_group: int,
    max_side_px: int | None,
    pixels: Pixels = _USUAL,
) -> tuple[Shard, int]:
    """Writes the images as rows of a shard; one row group at a time is in memory.

    Args:
      images: known to decode.
      max_side_px: larger images are resized (`fit`); none: all images keep their bytes.
      pixels: what they are decoded to when they are read.
    Returns: the shard, and the size in bytes of its samples in memory.
    Raises: OSError if the storage fails.
    """
    num_rows = num_bytes = 0
    rows = hashlib.sha256()
    with filesystem.open_output_stream(path) as stream:
        checked = Checksum(stream)
        with pq.ParquetWriter(
            checked, COLUMNS, compression={"image": "none"}, write_page_checksum=True
        ) as writer:
            while group := tuple(islice(images, rows_per_row_group)):
                table = to_table(group, max_side_px=max_side_px, pixels=pixels, is_checked=True)
                writer.write_table(table, row_group_size=table.num_rows)
                update_rows(rows, table)
                num_rows += table.num_rows
                num_bytes += table.select(SAMPLES.names).nbytes
    name = path.rpartition("/")[2]
    shard = Shard(
        file=name,
        num_rows=num_rows,
        sha256=checked.digest.hexdigest(),
        num_bytes=checked.tell(),
        footer=pack_footer(writer.writer.metadata),
        rows_sha256=rows.hexdigest(),
    )
    return shard, num_bytes


def update_rows(digest: "hashlib._Hash", table: pa.Table) -> None:
    """Adds to the digest each row's image and label, so that no other rows have the same one.

    A row is the image's size in bytes (8 bytes), the image, its label, −1 if it has none (4 bytes);
    numbers are little-endian.
    """
    labels = table["label"].fill_null(-1).to_pylist()
    for image, label in zip(table["image"], labels, strict=True):
        encoded = image.as_buffer()
        digest.update(struct.pack("<q", encoded.size))
        digest.update(encoded)
        digest.update(struct.pack("<i", label))


def to_table(
    images: Iterable[SourceImage],
    *,
    max_side_px: int | None = None,
    pixels: Pixels = _USUAL,
    is_checked: bool = False,
) -> pa.Table:
    """The images as rows of a shard.

    Raises: DataError if one of them cannot be decoded.
    """
    rows = []
    for image in images:
        if not is_checked and (fault := fault_of(image.encoded, pixels)) is not None:
            raise DataError(
                f"{image.sample_id!r} cannot be decoded ({fault}); remove or repair it, or "
                "leave it out (on-bad-image skip)."
            )
        encoded, (width, height) = fit(image.encoded, max_side_px, pixels)
        rows.append(
            {
                "sample_id": image.sample_id, "image": encoded, "label": image.label,
                "width": width, "height": height,
                "class_name": image.class_name, "source": image.origin,
            }
        )  # fmt: skip
    return pa.Table.from_pylist(rows, schema=COLUMNS)


def fault_of(encoded: bytes, pixels: Pixels = _USUAL) -> str | None:
    """Why these bytes cannot be decoded as an image of these pixels; None if they can."""
    try:
        if pixels.is_usual:
            decode(encoded)
        else:
            decode_raster(encoded, pixels)
    except OSError as error:
        return reason(error)
    return None


def reason(error: OSError) -> str:
    """Why an image cannot be decoded, in a few words."""
    causes = (error, error.__cause__)
    is_none = any(isinstance(cause, UnidentifiedImageError) for cause in causes)
    return "no image" if is_none else first_line(error)


def has_more_bits(encoded: bytes, pixels: Pixels = _USUAL) -> bool:
    """Whether an image that decodes has more than 8 bits a channel."""
    if encoded.startswith(_JPEG):
        return False
    if is_array(encoded[:HEAD_BYTES]) or (not pixels.is_rgb and is_tiff(encoded)):
        return raster.has_more_bits(encoded, pixels)
    with _opened(encoded) as opened:
        return is_deep(opened) or opened.format is None


def _opened(encoded: bytes) -> Image.Image:
    """The image; only its header is read, if Pillow knows the format."""
    try:
        return open_image(encoded)
    except UnidentifiedImageError:
        return decode(encoded)  # by OpenCV


def fit(
    encoded: bytes, max_side_px: int | None, pixels: Pixels = _USUAL
) -> tuple[bytes, tuple[int, int]]:
    """The encoded image, resized if its longer side exceeds `max_side_px`; its width and height.

    A resized image (Lanczos) is a JPEG of quality 95, in RGB or greyscale, without metadata; every
    other image keeps its bytes.

    Args:
      max_side_px: none for images that are not 8-bit RGB.
    """
    if not pixels.is_usual:
        size = size_of(encoded, pixels)
        if max_side_px is None or max(size) <= max_side_px:
            return encoded, size
        return _shrink(Image.fromarray(decode_raster(encoded, pixels)), max_side_px)
    with _opened(encoded) as opened:
        if max_side_px is None or max(opened.size) <= max_side_px:
            return encoded, opened.size
        return _shrink(decode(encoded) if is_deep(opened) else load(opened, encoded), max_side_px)


def _shrink(image: Image.Image, max_side_px: int) -> tuple[bytes, tuple[int, int]]:
    """The image as a JPEG whose longer side is `max_side_px`; its width and height."""
    scale = max_side_px / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    if image.mode not in _KEPT_MODES:
        image = image.convert("RGB")
    buffer = io.BytesIO()
    image.resize(size, Image.Resampling.LANCZOS).save(buffer, format="JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue(), size
