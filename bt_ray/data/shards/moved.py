"""Shards below a storage that was moved or copied: where they lie now."""

from dataclasses import replace
from pathlib import Path

from bt_ray.config import Settings


def follow_storage(settings: Settings, place: Path) -> Settings:
    """The settings with the shards of a moved storage where they lie now.

    Shards that a run writes lie in its storage, and their folder is named by what it holds. So of
    those that are gone, the ones of the same name in the storage at hand are meant.

    Args:
      place: the storage, or a folder in it, such as the run's.
    """

    def found(root: str | None) -> str | None:
        if root is None or "://" in root or Path(root).parent.name != "shards":
            return root
        if Path(root).exists():
            return root
        here = (above / "shards" / Path(root).name for above in (place, *place.parents))
        return next((str(shards) for shards in here if shards.is_dir()), root)

    train = found(settings.data.train) or settings.data.train
    test, validation = found(settings.data.test), found(settings.data.validation)
    data = replace(settings.data, train=train, test=test, validation=validation)
    return replace(settings, data=data)
