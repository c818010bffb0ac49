"""Where a run is kept, and whether it may be kept there."""

import os
from dataclasses import replace
from pathlib import Path

from bt_ray.config import SETTINGS_FILE, Settings, from_json
from bt_ray.errors import SettingsError


def locate_storage(settings: Settings) -> Settings:
    """The settings with `storage` as an absolute path.

    Raises: SettingsError for a URI.
    """
    if "://" in settings.storage:
        raise SettingsError(
            f"storage={settings.storage} must be a folder that every node reaches; "
            "object storage serves for data.train and data.test only."
        )
    return replace(settings, storage=str(Path(settings.storage).expanduser().resolve()))


def nearest_folder(path: Path) -> Path:
    """`path`, or what exists of the way to it."""
    return next(place for place in (path, *path.parents) if place.exists())


def check_storage(settings: Settings) -> None:
    """Raises SettingsError unless the located storage is, or can become, a folder to write to."""
    place = nearest_folder(Path(settings.storage))
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        fault = "may not be written to" if place.is_dir() else "is no folder"
        raise SettingsError(
            f"storage={settings.storage} must be a folder that can be written to; {place} {fault}. "
            "Give another --storage."
        )


def check_name(run_folder: Path, settings: Settings) -> None:
    """Makes sure that the run in `run_folder`, if there is one, is the one of these settings.

    Workers and tracking may differ between two goes at one run; what shapes the result may not.

    Raises: SettingsError.
    """
    file = run_folder / SETTINGS_FILE
    if not file.is_file():
        return
    theirs = from_json(file.read_text())
    same_place = replace(theirs, scaling=settings.scaling, tracking=settings.tracking)
    if same_place != settings:
        raise SettingsError(
            f"There is a run {settings.name!r} in {run_folder.parent} with other settings; "
            "give this one another --name, or repeat those settings to continue it."
        )
