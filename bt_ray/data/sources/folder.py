"""A folder of image files, on this machine or in an object store."""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from bt_ray.data.location import is_local, locate, public_name
from bt_ray.data.sources.fetch import fetch
from bt_ray.data.sources.folder_labels import classes_of
from bt_ray.data.sources.found import printable
from bt_ray.data.sources.source import Source, identify, index
from bt_ray.data.sources.walk import Listing

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Files:
    """Reads image files below `root`.

    An image's `sample_id` is its path there; if that is no plain text, column `path` has its bytes.
    """

    root: str

    def read(self, entries: pa.Table) -> Iterator[bytes]:
        """The files' bytes."""
        column = "path" if "path" in entries.column_names else "sample_id"
        names = (os.fsdecode(name.as_py()) for name in entries[column])
        filesystem, root = locate(self.root)
        if isinstance(filesystem, pa.fs.LocalFileSystem):
            yield from (Path(root, name).read_bytes() for name in names)
            return

        def content(name: str) -> bytes:
            with filesystem.open_input_file(f"{root}/{name}") as file:
                read: bytes = file.read()
                return read

        yield from fetch(content, names)


def image_folder(name: str, listing: Listing, *, labelled: bool) -> Source:
    """The image files of a listing, in an order that does not follow their names.

    If they are to be labelled, the first level of subfolders is the classes, in the order of their
    names; `classes_of` says when.

    Raises: DataError if the subfolders are the splits of a data set.
    """
    found, paths = listing.found, list(listing.images)
    classes: tuple[str, ...] = ()
    if labelled:
        paths, classes = classes_of(name, paths, found)
    if classes and is_local(name):
        for folder in sorted(listing.folders - set(classes)):
            logger.warning("There is no image in %s: the class is left out.",
                           printable(str(Path(name).expanduser() / folder)))  # fmt: skip
    label_of = {word: label for label, word in enumerate(classes)}
    labels = [label_of.get(path.split("/")[0]) for path in paths]
    ids = [printable(path) for path in paths]
    raw = {} if ids == paths else {"path": pa.array(map(os.fsencode, paths), pa.binary())}
    entries = index(ids, labels, **raw)
    in_order = [os.fsdecode(p) for p in entries["path" if raw else "sample_id"].to_pylist()]
    identity, num_bytes = _identity(name, listing.images, in_order)
    found.taken = len(paths)
    source = Source(identity, tuple(map(printable, classes)), entries, Files(name), num_bytes,
                    public_name(name), found=found)  # fmt: skip
    return source if labelled else replace(source, identity=f"{identity}-unlabelled")


def _identity(
    name: str, facts: dict[str, tuple[int, int] | None], paths: list[str]
) -> tuple[str, int]:
    """The identity of the folder's images, and their size in bytes, paths included.

    The identity is the folder's name and a digest of the images' paths, sizes and times of change.
    """
    filesystem, folder = locate(name)
    is_here = isinstance(filesystem, pa.fs.LocalFileSystem)
    sizes, words = [], [folder if is_here else public_name(name)]
    for path in paths:
        known = facts[path]
        if known is None:
            status = os.stat(f"{folder}/{path}")  # noqa: PTH116 - twice as fast, for 100,000 files
            known = (status.st_size, status.st_mtime_ns)
        size, changed_ns = known
        sizes.append(size + len(os.fsencode(path)))
        words.append(f"{path} {size} {changed_ns}")
    return identify(folder.rpartition("/")[2], words), sum(sizes)
