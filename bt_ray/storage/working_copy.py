"""Copies of what lies in a far storage, in a folder of this machine where it is worked on.

A run is kept in a folder. If the storage is a URI, that folder is a copy below the temporary folder
of this machine: it begins as what the storage holds, and what changes in it is copied back
(`storage.mirror`). Checkpoints and shards are not: they go to the storage at once and come from
there when they are needed.
"""

import json
import os
import sqlite3
import tempfile
from collections.abc import Collection
from contextlib import closing
from pathlib import Path
from typing import Any

from bt_ray.data.lock import held
from bt_ray.storage.names import folder_of, is_far, origin_of
from bt_ray.storage.store import Store

CHECKPOINT = "checkpoint_"
"""How names of checkpoints begin."""
BEST = "best"
"""Name of the folder with a run's best checkpoint, in the run's."""
_GOES_ITSELF = (CHECKPOINT, "shards", "train")
"""How names of folders begin that are not copied; Ray Train keeps notes of its own in `train`."""
_KEPT_HERE = (".lock", ".held", ".new", ".part", "-wal", "-shm", "-journal")
"""Endings of files that mean nothing elsewhere, or are not whole yet."""


def place_of(name: str) -> Path:
    """The folder that a path or a URI names, the latter as a copy that is up to date.

    Raises: StorageError.
    """
    if not is_far(name):
        return Path(name.removeprefix("file://")).expanduser().resolve()
    place, mark, options = name.partition("?")
    inside = Path()
    if place.rpartition("/")[2].startswith(CHECKPOINT):  # of the run two folders above it
        place, *parts = place.rsplit("/", 2)
        inside = Path(*parts)
    elif place.endswith(f"/{BEST}") and not holds_run(name):
        place, inside = place.removesuffix(f"/{BEST}"), Path(BEST)
    folder = folder_of(f"{place}{mark}{options}")
    pull(folder)
    return folder / inside


def holds_run(name: str) -> bool:
    """Whether a path or a URI names a folder with settings of its own, such as a run's.

    Raises: StorageError.
    """
    if is_far(name):
        return read_far_json(name, "settings.json") is not None
    return (place_of(name) / "settings.json").is_file()


def beside(folder: Path, name: str) -> Path:
    """The folder of this name beside a run's, as a copy that is up to date if the run's is one.

    Raises: StorageError.
    """
    origin = origin_of(folder)
    if origin is None:
        return folder.parent / name
    place, mark, options = origin.uri.partition("?")
    return place_of(f"{place.rpartition('/')[0]}/{name}{mark}{options}")


def read_far_json(folder: str, name: str) -> dict[str, Any] | None:
    """The object in a file of a far folder; none if there is none. Raises: StorageError."""
    try:
        tree = json.loads(Store(folder).read(name))
    except (FileNotFoundError, ValueError):
        return None
    return tree if isinstance(tree, dict) else None


def pull(folder: Path, but: Collection[str] = ()) -> None:
    """Makes a copy what its original is, without checkpoints and shards; nothing if it is none.

    Args:
      but: names of folders in it that are left out.
    Raises: StorageError.
    """
    origin = origin_of(folder)
    if origin is None:
        return
    wanted = {name for name in origin.sizes() if _is_copied(name, but)}
    folder.mkdir(parents=True, exist_ok=True)
    for name in copied_files(folder, but):
        if name not in wanted:
            (folder / name).unlink(missing_ok=True)
    origin.download(wanted, folder)


def bring(folder: Path) -> None:
    """Has all files of one folder of a copy here; nothing if it is none. Raises: StorageError."""
    origin = origin_of(folder)
    if origin is not None:
        folder.mkdir(parents=True, exist_ok=True)
        with held(folder / "copying.lock"):
            there = origin.sizes()
            sizes = {name: size_of(folder / name) for name in there}
            origin.download([name for name in there if sizes[name] != there[name]], folder)


def send(file: Path) -> None:
    """Copies one file to where it belongs, if it is in a copied folder. Raises: StorageError."""
    origin = origin_of(file.parent)
    if origin is not None:
        origin.write(file.name, content_of(file))


def copied_files(folder: Path, but: Collection[str]) -> list[str]:
    """Names of the files that are copied, relative to the folder."""
    found = []
    for place, folders, files in os.walk(folder):
        inside = Path(place).relative_to(folder)
        folders[:] = [name for name in folders if _is_copied(f"{inside / name}/x", but)]
        found += [(inside / file).as_posix() for file in files]
    return [name for name in found if _is_copied(name, but)]


def _is_copied(name: str, but: Collection[str]) -> bool:
    *folders, file = name.split("/")
    goes_itself = any(part.startswith(_GOES_ITSELF) for part in folders)
    is_other = bool(folders) and folders[0] in but
    return not (goes_itself or is_other or file.endswith(_KEPT_HERE) or file == "claim.json")


def size_of(file: Path) -> int | None:
    """Of a file here, in bytes; none if there is none."""
    return file.stat().st_size if file.is_file() else None


def content_of(file: Path) -> bytes:
    """What a file holds; of a database that is written to, as it was at one moment."""
    if file.suffix != ".db":
        return file.read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / file.name
        with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
        return copy.read_bytes()
