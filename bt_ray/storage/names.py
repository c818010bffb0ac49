"""How a storage, and what is in it, is named: by a path, or a URI and a folder of copies here."""

import hashlib
import os
import tempfile
from pathlib import Path

from bt_ray.errors import SettingsError
from bt_ray.redaction import without_credentials
from bt_ray.storage.store import Store

_ORIGINS: dict[Path, Store] = {}
"""Of this process: the storage that each folder of copies stands for."""


def is_far(storage: str) -> bool:
    """Whether a storage is no folder of this machine, but a URI of another kind."""
    return "://" in storage and not storage.startswith("file://")


def absolute(storage: str) -> str:
    """A path from the root on, or a URI without a last slash; `file://` is a path."""
    if is_far(storage):
        place, mark, options = storage.partition("?")
        return f"{place.rstrip('/')}{mark}{options}"
    return str(Path(storage.removeprefix("file://")).expanduser().resolve())


def below(storage: str, name: str) -> str:
    """The folder of this name in a storage, a path or a URI."""
    return Store(storage).below(name).uri


def folder_of(storage: str) -> Path:
    """Where this process works on what a storage holds: the folder itself, or that of copies.

    Raises: SettingsError if the temporary folder is not to be trusted.
    """
    if not is_far(storage):
        return Path(storage)
    name = hashlib.sha256(without_credentials(storage).encode()).hexdigest()[:16]
    mine = Path(tempfile.gettempdir()).resolve() / f"bt_ray-{os.getuid()}"
    mine.mkdir(mode=0o700, exist_ok=True)
    if mine.is_symlink() or mine.stat().st_uid != os.getuid():
        raise SettingsError(f"{mine} belongs to somebody else; set TMPDIR to another folder.")
    _ORIGINS[mine / name] = Store(storage)
    return mine / name


def origin_of(place: Path) -> Store | None:
    """The folder in a far storage that a folder here is a copy of; none if it is none."""
    for root, store in _ORIGINS.items():
        if place.is_relative_to(root):
            return store.below(place.relative_to(root).as_posix().removeprefix("."))
    return None


def name_of(place: Path) -> str:
    """How a person names a folder or file: its path or, of a copy, the URI of the original."""
    origin = origin_of(place)
    return str(place) if origin is None else without_credentials(origin.uri)
