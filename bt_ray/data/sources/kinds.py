"""Which files are images: by their endings and, where an ending says nothing, by their content."""

import mimetypes
import re
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

from PIL import Image, UnidentifiedImageError

from bt_ray.data.views.arrays import HEAD_BYTES, is_array

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff",
    ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".avif", ".npy", ".dcm", ".dicom",
)  # fmt: skip
"""Endings that are believed: such a file is not opened until it is decoded."""
ARCHIVE_SUFFIXES = (".tar", ".parquet")
COMPRESSED_SUFFIXES = (".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")

HIDDEN = "hidden"
BY_PROGRAMS = "kept by systems and programs"
UNFINISHED = "backups or unfinished downloads"
NO_IMAGE = "no images"
OTHER_KIND = "images of kinds that are not decoded: convert them to JPEG, PNG or TIFF"
PACKED = "archives that would have to be unpacked or read on their own"
STRAYS = "outside of the class folders"

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")
_OTHER_KINDS = frozenset((
    ".heic", ".heif", ".jxl", ".svg", ".ico", ".psd", ".xcf", ".eps", ".djvu", ".tga", ".pcx",
    ".dng", ".nef", ".cr2", ".cr3", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw", ".raw",
    ".exr", ".hdr", ".nii", ".svs", ".ndpi", ".mrxs", ".czi", ".lif",
))  # fmt: skip
_PACKED = frozenset((
    *COMPRESSED_SUFFIXES, *ARCHIVE_SUFFIXES, ".zip", ".7z", ".rar", ".gz", ".bz2", ".xz", ".zst",
    ".tfrecord", ".tfrecords", ".lmdb", ".mdb", ".h5", ".hdf5", ".arrow", ".beton", ".rec",
))  # fmt: skip
_OF_PROGRAMS = frozenset({
    "__macosx", "@eadir", "@tmp", "@recycle", "@recently-snapshot", "@sharebin", "#recycle",
    "#snapshot", "~snapshot", "$recycle.bin", "recycler", "system volume information",
    "lost+found", "found.000", "network trash folder", "temporary items", "thevolumesettingsfolder",
    "__pycache__", "node_modules", "_darcs", "mlruns", "mlartifacts", "dicomdir",
    "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r", "picasa.ini",
})  # fmt: skip
_UNFINISHED = re.compile(r"~$|^~\$|^#.*#$|\.(part|partial|crdownload|download|tmp|bak|swp|orig)$")
_KNOWN = mimetypes.MimeTypes()  # Python's own table: the machine's would differ from others'

Opener = Callable[[], Any]
"""Opens a file for reading from its start; a context manager."""


def set_aside(name: str) -> str | None:
    """Why a file or folder of this name is no part of any data set; None if it may be one."""
    if name.lower() in _OF_PROGRAMS:
        return BY_PROGRAMS
    if name.startswith("."):
        return HIDDEN
    return UNFINISHED if _UNFINISHED.search(name.lower()) else None


def set_aside_path(path: str) -> str | None:
    """Why a path, with slashes, is no part of any data set; None if it may be one."""
    parts = (part for part in path.split("/") if part not in ("", ".", ".."))
    return next((reason for part in parts if (reason := set_aside(part)) is not None), None)


def is_packed(name: str) -> bool:
    """Whether the ending is an archive's."""
    return name.lower().endswith(tuple(_PACKED))


def why_no_image(name: str, opener: Opener) -> str | None:
    """Why a file is not taken for an image; None if it is one, by its ending or its content.

    Only files with endings that tell nothing are opened.

    Raises: OSError if such a file cannot be read.
    """
    name = name.lower()
    if name.endswith(IMAGE_SUFFIXES):
        return None
    suffix = PurePosixPath(name).suffix
    if suffix in _OTHER_KINDS:
        return OTHER_KIND
    if is_packed(name):
        return PACKED
    told = _KNOWN.types_map[True].get(suffix, "")
    if told and not told.startswith("image/") and told != "application/octet-stream":
        return NO_IMAGE
    with opener() as file:
        return None if is_image(file) else NO_IMAGE


def is_image(file: Any) -> bool:
    """Whether the file begins as an image that is decoded here does; its pixels are not read."""
    if is_array(file.read(HEAD_BYTES)):
        return True
    file.seek(0)
    try:
        with Image.open(file, formats=_FORMATS):
            return True
    except UnidentifiedImageError:
        return False
    except (ValueError, Image.DecompressionBombError):  # an image, of large pixels or large notes
        return True
