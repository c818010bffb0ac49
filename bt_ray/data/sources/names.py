"""Opens the source that a name means: a data set, archives, files, or a folder."""

import logging
import re
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.fs

from bt_ray.data.location import first_line, is_local, locate, public_name
from bt_ray.data.sources.cifar10 import cifar10_folder
from bt_ray.data.sources.digits import digits
from bt_ray.data.sources.folder import image_folder
from bt_ray.data.sources.folder_labels import NO_LABELS
from bt_ray.data.sources.found import Found, printable
from bt_ray.data.sources.kinds import COMPRESSED_SUFFIXES, IMAGE_SUFFIXES, PACKED, STRAYS
from bt_ray.data.sources.labels import with_labels, without_labels
from bt_ray.data.sources.listings import is_listing, listed_images
from bt_ray.data.sources.parquet import parquet_files
from bt_ray.data.sources.source import Source
from bt_ray.data.sources.splits import refuse_mixed_files
from bt_ray.data.sources.tars import tar_archives
from bt_ray.data.sources.torchvision import torchvision_set
from bt_ray.data.sources.walk import Listing, list_folder
from bt_ray.errors import DataError

logger = logging.getLogger(__name__)

BESIDE = "images beside the archives"
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MAKERS = {".tar": tar_archives, ".parquet": parquet_files}
_BUILT_IN = re.compile(r"(digits|cifar10)(:train|:test)?")
_FEW_IMAGES, _MANY_IMAGES = 3, 20
"""Images beside archives: up to so many (or as many as there are archives) are left out; from so
many for each archive on, the archives are."""


def open_source(name: str, labels: str | None = None) -> Source:
    """The source that `name` means, and a line in the log of what was passed over, if anything.

    Args:
      name: a path, or any URI that pyarrow opens, of tar archives or Parquet files (one, a folder
        of them, or several as in `{000..012}`) or of a folder of images; or, unless there is a
        folder of that name, `digits` or `digits:test` (the embedded data), `cifar10` or
        `cifar10:test` (downloaded once), `torchvision:CLASS:ROOT`, `places205:SPLIT:ROOT`,
        `inat18:SPLIT:ROOT`. `digits:train` and `cifar10:train` are never folders.
      labels: a text file with the labels of a source without labels (`labels.with_labels`), or
        `none`: the images are taken without labels, whatever their folders are called.
    Raises: DataError if there is no such source, or no image in it.
    """
    if not name.isprintable() and printable(name) != name:
        raise DataError(f"The name {printable(name)!r} is not UTF-8, or has characters that move "
                        "the cursor; rename the folder or file, or give a link to it.")  # fmt: skip
    source = _open(name, labelled=labels != NO_LABELS)
    if labels == NO_LABELS:
        source = without_labels(source)
    elif labels is not None:
        if source.found is not None and STRAYS in source.found.passed_over:
            source = _open(name, labelled=False)  # the file says more than the folders do
        source = with_labels(source, labels)
    if source.found is not None and source.found.is_remarkable:
        _say(f"{source.name}: {source.found.sentence}")
    return source


@lru_cache(maxsize=64)  # a run reads a source more than once
def _say(sentence: str) -> None:
    logger.warning("%s", sentence)


def _open(name: str, *, labelled: bool) -> Source:
    if "://" not in name and Path(name).expanduser().is_dir():
        if _BUILT_IN.fullmatch(name):
            _say(f"{name} is the folder {name!r} here, not the built-in set: that is {name}:train.")
        return _folder(name, labelled=labelled)
    built_in = _BUILT_IN.fullmatch(name)
    is_test = name.endswith(":test")
    if built_in and built_in[1] == "digits":
        return digits(test=is_test)
    if built_in:
        return _folder(str(cifar10_folder("test" if is_test else "train")), labelled=labelled)
    if is_listing(name):
        return listed_images(name)
    if name.startswith("torchvision:"):
        return torchvision_set(name)
    uris = expand_braces(name)
    filesystem, path = locate(uris[0])
    for suffix, make in _MAKERS.items():
        if path.endswith((suffix, *(COMPRESSED_SUFFIXES if suffix == ".tar" else ()))) and (
            len(uris) > 1 or filesystem.get_file_info(path).type != pa.fs.FileType.Directory
        ):
            _require_file(filesystem, path, name)
            return make(name, uris, labelled=labelled)
    return _folder(name, labelled=labelled)


def _require_file(filesystem: pa.fs.FileSystem, path: str, name: str) -> None:
    try:
        is_there = filesystem.get_file_info(path).type == pa.fs.FileType.File
    except OSError as error:
        raise DataError(
            f"{public_name(name)!r} cannot be reached ({first_line(error)})."
        ) from error
    if not is_there:
        raise DataError(f"There is no file {public_name(name)!r}; give one that is there.")


def _folder(name: str, *, labelled: bool) -> Source:
    """A folder's images, or its tar archives, or its Parquet files."""
    filesystem, path = locate(name)
    shown = public_name(name)
    try:
        kind = filesystem.get_file_info(path).type
    except OSError as error:
        raise DataError(f"{shown!r} cannot be reached ({first_line(error)}).") from error
    if kind == pa.fs.FileType.NotFound:
        raise DataError(f"There is no folder {shown!r}; give a folder of images or shards.")
    if kind == pa.fs.FileType.File:
        raise DataError(
            f"{shown!r} is a file of no known kind; give a folder, a .tar or a .parquet."
        )
    listing = list_folder(name)
    suffix = _archives_that_count(shown, listing)
    if suffix is None:
        for file in listing.archives:
            listing.found.pass_over(PACKED, file)
        if listing.images:
            return image_folder(name, listing, labelled=labelled)
        seen = f" What is there: {listing.found.sentence}" if listing.found.passed_over else ""
        raise DataError(
            f"There is no image below {shown!r}, nor a .tar or .parquet; known are "
            f"{', '.join(IMAGE_SUFFIXES)}.{seen}"
        )
    files = [file for file in listing.archives if file.lower().endswith(suffix)]
    for image in listing.images:
        listing.found.pass_over(BESIDE, image)
    if labelled:
        refuse_mixed_files(name, files)
    uris = [_beside(name, path, f"{path}/{file}") for file in files]
    source = _MAKERS[suffix](name, uris, labelled=labelled)
    found = source.found or Found(taken=len(source))
    found.add(listing.found)
    return replace(source, found=found)


def _archives_that_count(shown: str, listing: Listing) -> str | None:
    """The ending of the archives that are the folder's data set; none if its images are.

    Raises: DataError if that cannot be told.
    """
    counts = {s: sum(f.lower().endswith(s) for f in listing.archives) for s in _MAKERS}
    kinds = [suffix for suffix, count in counts.items() if count]
    num_archives, num_images = len(listing.archives), len(listing.images)
    if not kinds or num_images >= _MANY_IMAGES * num_archives:
        return None
    if len(kinds) == 1 and num_images <= max(_FEW_IMAGES, num_archives):
        return kinds[0]
    words = [f"{num_images:,} images"] * bool(num_images)
    words += [f"{counts[suffix]:,} {suffix}" for suffix in kinds]
    raise DataError(
        f"{shown!r} holds {' and '.join(words)}, and which are the data set cannot be told; give "
        f"the archives by name, as in {shown.rstrip('/')}/{listing.archives[0]}, or move one kind "
        "to a folder of its own."
    )


def _beside(name: str, folder: str, file: str) -> str:
    """The name of a file below the folder `name`, whose path is `folder`."""
    if is_local(name):
        return file
    place, mark, options = name.partition("?")
    return f"{place.rstrip('/')}{file.removeprefix(folder)}{mark}{options}"


def expand_braces(name: str) -> list[str]:
    """The names that `{000..012}` in a name stands for, in order; the name alone without it."""
    found = _BRACES.search(name)
    if found is None:
        return [name]
    first, last = found.groups()
    if int(last) < int(first):
        raise DataError(f"{found[0]} in {public_name(name)!r} must count upwards.")
    return [
        expanded
        for number in range(int(first), int(last) + 1)
        for expanded in expand_braces(
            f"{name[: found.start()]}{number:0{len(first)}d}{name[found.end() :]}"
        )
    ]
