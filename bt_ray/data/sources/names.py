"""Opens the source that a name means: a data set, archives, files, or a folder."""

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.fs

from bt_ray.data.location import first_line, is_local, list_files, locate, public_name
from bt_ray.data.sources.cifar10 import cifar10_folder
from bt_ray.data.sources.digits import digits
from bt_ray.data.sources.folder import image_folder
from bt_ray.data.sources.labels import with_labels
from bt_ray.data.sources.listings import is_listing, listed_images
from bt_ray.data.sources.parquet import parquet_files
from bt_ray.data.sources.source import IMAGE_SUFFIXES, Source
from bt_ray.data.sources.tars import tar_archives
from bt_ray.data.sources.torchvision import torchvision_set
from bt_ray.errors import DataError

_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_SPLITS = {"train", "val", "valid", "validation", "test"}
_MAKERS = {".tar": tar_archives, ".parquet": parquet_files}
_COMPRESSED = (".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")


def open_source(name: str, labels: str | None = None) -> Source:
    """The source that `name` means.

    Args:
      name: `digits` or `digits:test` (the embedded data); `cifar10` or `cifar10:test`
        (downloaded once, unless there is a folder of that name); `torchvision:CLASS:ROOT`;
        `places205:SPLIT:ROOT`, `inat18:SPLIT:ROOT`;
        tar archives or Parquet files: one, a folder of them, or several as in `{000..012}`; or a
        folder of images. Each is a path, or any URI that pyarrow opens.
      labels: a text file with the labels of a source without labels (`labels.with_labels`).
    Raises: DataError if there is no such source, or no image in it.
    """
    source = _open(name)
    return source if labels is None else with_labels(source, labels)


def _open(name: str) -> Source:
    if name in ("digits", "digits:test"):
        return digits(test=name.endswith(":test"))
    if is_listing(name):
        return listed_images(name)
    if name.startswith("torchvision:"):
        return torchvision_set(name)
    if name in ("cifar10", "cifar10:test") and not Path(name).is_dir():
        name = str(cifar10_folder("test" if name.endswith(":test") else "train"))
    uris = expand_braces(name)
    filesystem, path = locate(uris[0])
    for suffix, make in _MAKERS.items():
        if path.endswith((suffix, *(_COMPRESSED if suffix == ".tar" else ()))) and (
            len(uris) > 1 or filesystem.get_file_info(path).type != pa.fs.FileType.Directory
        ):
            _require_file(filesystem, path, name)
            return make(name, uris)
    return _folder(name)


def _require_file(filesystem: pa.fs.FileSystem, path: str, name: str) -> None:
    try:
        is_there = filesystem.get_file_info(path).type == pa.fs.FileType.File
    except OSError as error:
        raise DataError(
            f"{public_name(name)!r} cannot be reached ({first_line(error)})."
        ) from error
    if not is_there:
        raise DataError(f"There is no file {public_name(name)!r}; give one that is there.")


def _folder(name: str) -> Source:
    """A folder's images; if it has none, its tar archives; if it has none, its Parquet files."""
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
    images = image_folder(name)
    if images is not None:
        return images
    files = list_files(filesystem, path)
    for suffix, make in _MAKERS.items():
        found = [str(info.path) for info in files if info.path.endswith(suffix)]
        if found:
            _refuse_splits(shown, found)
            return make(name, [_beside(name, path, file) for file in found])
    raise DataError(
        f"There is no image below {shown!r}, nor a .tar or .parquet; known are "
        f"{', '.join(IMAGE_SUFFIXES)}."
    )


def _refuse_splits(shown: str, files: list[str]) -> None:
    """Raises DataError if some of the files are named as training data and others are not."""
    kinds = {frozenset(_SPLITS & set(re.split(r"[^a-z]+", Path(f).name.lower()))) for f in files}
    if len(kinds) > 1:
        raise DataError(
            f"The files in {shown!r} are of several splits, such as {Path(files[0]).name} and "
            f"{Path(files[-1]).name}; give those of one by {{000..012}}, or one file."
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
