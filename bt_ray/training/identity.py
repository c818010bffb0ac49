"""Whether two goes at a run learn from the same things: their content decides, not their place."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from bt_ray.checkpoints.checkpoint import find_checkpoint
from bt_ray.checkpoints.manifest import MANIFEST
from bt_ray.config import PLACES, Settings, differences, flatten
from bt_ray.data.location import write_text
from bt_ray.data.shards.shard_set import ShardSet, is_shards
from bt_ray.errors import BtRayError
from bt_ray.storage.names import is_far
from bt_ray.storage.working_copy import place_of

CONTENT = "content.json"
"""Name of the file in a run's folder that tells what lay where its settings point to."""

Contents = Mapping[str, str | None]
"""SHA-256 of what lies at a setting's place, by the setting's key; None if nobody knows."""


def record_content(run_folder: Path, settings: Settings) -> None:
    """Notes the content of the images and of the first weights of a run."""
    flat = flatten(settings)
    write_text(
        run_folder / CONTENT,
        json.dumps({key: content_of(key, flat[key]) for key in PLACES}, indent=2),
    )


def recorded_content(run_folder: Path) -> Contents:
    """What was noted there; nothing of a run that an earlier version began."""
    try:
        tree = json.loads((run_folder / CONTENT).read_text())
    except (OSError, ValueError):
        return {}
    return tree if isinstance(tree, dict) else {}


def content_of(key: str, place: str | None) -> str | None:
    """SHA-256 of the shards, or of the checkpoint, at a place; None if there are none."""
    try:
        if place is None:
            return None
        if key == "model.start_from":
            named = place_of(place)
            folder = named if (named / MANIFEST).is_file() else find_checkpoint(named)
            if folder is None:
                return None
            return hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
        return ShardSet.open(place).manifest.content if is_shards(place) else None
    except (BtRayError, OSError):
        return None


def changes(settings: Settings, theirs: Settings, recorded: Contents) -> list[str]:
    """Keys of the settings that shape a result and differ; a place only if its content does.

    Args:
      theirs: the settings of an earlier go, and `recorded`, the content that it noted.
    """
    changed = [key for key in differences(settings, theirs) if key not in PLACES]
    return changed + [key for key in PLACES if not _is_same(key, settings, theirs, recorded)]


def _is_same(key: str, settings: Settings, theirs: Settings, recorded: Contents) -> bool:
    mine, other = flatten(settings)[key], flatten(theirs)[key]
    if mine is None or other is None:
        return bool(mine == other)
    if key == "model.start_from" and mine == other:
        return True  # that run may have gone on since
    ours, known = content_of(key, mine), recorded.get(key) or content_of(key, other)
    if ours is not None and known is not None:
        return ours == known
    if ours is None and key != "model.start_from":
        return True  # these shards are still to be written: a forecast cannot know
    return mine == other or _below_storage(mine, settings) == _below_storage(other, theirs)


def _below_storage(place: str, settings: Settings) -> Path:
    """The place as seen from the storage, which may have been moved with all that lies in it."""
    if is_far(place):
        return Path(place.removeprefix(settings.storage.partition("?")[0]).partition("?")[0])
    path, storage = Path(place), Path(settings.storage)
    return path.relative_to(storage) if path.is_relative_to(storage) else path
