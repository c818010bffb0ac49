"""Lists a folder: its images, its archives, and what is passed over and why."""

import os
from dataclasses import dataclass, field
from functools import partial

import pyarrow as pa
import pyarrow.fs

from bt_ray.data.location import first_line, list_files, locate, public_name
from bt_ray.data.sources.found import Found
from bt_ray.data.sources.kinds import (
    ARCHIVE_SUFFIXES,
    Opener,
    set_aside,
    set_aside_path,
    why_no_image,
)
from bt_ray.data.sources.ours import is_ours
from bt_ray.errors import DataError

OURS = "folders of runs, shards or vectors"
LEADS_BACK = "links that lead back, or to a folder that is read already"
DANGLING = "links that lead nowhere"
NOT_READABLE = "that may not be read"
SPECIAL = "pipes, sockets or devices"


@dataclass
class Listing:
    """What lies below a folder.

    `images` has, for each image's path relative to the folder, its size and time of change (ns), or
    None if that was not asked. `archives` are paths of tars and Parquet files; `folders` are the
    first level of subfolders, where images were looked for.
    """

    images: dict[str, tuple[int, int] | None] = field(default_factory=dict)
    archives: list[str] = field(default_factory=list)
    folders: set[str] = field(default_factory=set)
    found: Found = field(default_factory=Found)

    def take(self, path: str, opener: Opener, facts: tuple[int, int] | None = None) -> None:
        """Takes a file for what it is."""
        if path.lower().endswith(ARCHIVE_SUFFIXES):
            self.archives.append(path)
            return
        try:
            reason = why_no_image(path, opener)
        except OSError:
            reason = NOT_READABLE
        if reason is None:
            self.images[path] = facts
        else:
            self.found.pass_over(reason, path)


def list_folder(name: str) -> Listing:
    """Everything below the folder `name`. Raises: DataError if the folder may not be read."""
    filesystem, root = locate(name)
    if isinstance(filesystem, pa.fs.LocalFileSystem):
        return _Walk(root).listing
    listing = Listing()
    for info in list_files(filesystem, root):
        path = info.path.removeprefix(f"{root}/")
        if (reason := set_aside_path(path)) is not None:
            listing.found.pass_over(reason, path)
        else:
            opener = partial(filesystem.open_input_file, info.path)
            listing.take(path, opener, (info.size, info.mtime_ns or 0))
    listing.archives.sort()
    return listing


class _Walk:
    """Walks a folder of this machine, each folder once, however links lead to it.

    Folders that lie in the tree are walked before links are followed: a link never takes a folder
    away from its own place.
    """

    def __init__(self, root: str) -> None:
        self.listing, self._root = Listing(), root
        self._walked: set[tuple[int, int]] = set()
        self._links: list[str] = []
        try:
            self._tree("")
        except OSError as error:
            raise DataError(
                f"The folder {public_name(root)!r} cannot be read ({first_line(error)}); give one "
                "that may be read."
            ) from error
        while self._links:
            links, self._links = sorted(self._links), []
            for link in links:
                self._follow(link)
        self.listing.archives.sort()

    def _place(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root

    def _tree(self, path: str) -> None:
        """Walks a folder and all real folders below it. Raises: OSError for the folder itself."""
        waiting = self._folder(path)
        while waiting:
            below = waiting.pop()
            try:
                waiting += self._folder(below)
            except OSError:
                self.listing.found.pass_over(f"folders {NOT_READABLE}", below)

    def _folder(self, path: str) -> list[str]:
        """Takes the files of one folder; its subfolders."""
        place = self._place(path)
        status = os.stat(place)  # noqa: PTH116
        with os.scandir(place) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
        self._walked.add((status.st_dev, status.st_ino))
        if path and is_ours(place, {entry.name for entry in entries}):
            self.listing.found.pass_over(OURS, path)
            self.listing.folders.discard(path.split("/")[0])
            return []
        if path and "/" not in path:
            self.listing.folders.add(path)
        prefix = f"{path}/" if path else ""
        return [prefix + entry.name for entry in entries if self._is_folder(entry, prefix)]

    def _is_folder(self, entry: os.DirEntry[str], prefix: str) -> bool:
        """Takes an entry that is a file, and keeps a link; whether it is a real folder."""
        path, listing = prefix + entry.name, self.listing
        reason = set_aside(entry.name)
        if reason is not None:
            listing.found.pass_over(reason, path)
            return False
        try:
            is_folder, is_file = entry.is_dir(), entry.is_file()
        except OSError:  # a link to itself
            is_folder = is_file = False
        if is_file:
            listing.take(path, partial(open, entry.path, "rb"))
        elif is_folder and entry.is_symlink():
            self._links.append(path)
        elif not is_folder:
            listing.found.pass_over(DANGLING if entry.is_symlink() else SPECIAL, path)
        return is_folder and not entry.is_symlink()

    def _follow(self, link: str) -> None:
        """Walks the folder that a link leads to, unless it was walked or lies above the root."""
        place = self._place(link)
        try:
            status = os.stat(place)  # noqa: PTH116
            if (status.st_dev, status.st_ino) in self._walked or self._is_above(place):
                self.listing.found.pass_over(LEADS_BACK, link)
            else:
                self._tree(link)
        except OSError:
            self.listing.found.pass_over(f"folders {NOT_READABLE}", link)

    def _is_above(self, place: str) -> bool:
        target = os.path.realpath(place)
        return os.path.commonpath([target, self._root]) == target
