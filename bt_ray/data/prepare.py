"""From whatever a user names to shards, written once below the storage of all runs."""

import tempfile
from dataclasses import replace
from pathlib import Path

from bt_ray.config import Settings
from bt_ray.data.shards import ShardSet, is_shards, write_shards
from bt_ray.data.sources import open_source
from bt_ray.errors import DataError


def prepare_data(settings: Settings) -> Settings:
    """The settings with `data.train` and `data.test` naming shards, written if need be.

    Raises: DataError if both are labelled, with different classes.
    """
    train = _shards_of(settings.data.train, settings)
    if settings.data.test is None:
        return replace(settings, data=replace(settings.data, train=train))
    test = _shards_of(settings.data.test, settings)
    classes = [ShardSet.open(root).manifest.classes for root in (train, test)]
    if all(classes) and classes[0] != classes[1]:
        odd = sorted(set(classes[0]) ^ set(classes[1]))
        raise DataError(
            f"data.train and data.test must have the same classes; only one of them has "
            f"{', '.join(odd[:5])}{' …' if len(odd) > 5 else ''}."
        )
    return replace(settings, data=replace(settings.data, train=train, test=test))


def _shards_of(source_name: str, settings: Settings) -> str:
    if is_shards(source_name):
        is_uri = "://" in source_name
        return source_name if is_uri else str(Path(source_name).expanduser().resolve())
    source = open_source(source_name)
    rows = settings.data.rows_per_row_group
    root = Path(settings.storage) / "shards" / f"{source.identity}-{rows}"
    if is_shards(str(root)):
        return str(root)
    root.parent.mkdir(parents=True, exist_ok=True)
    # Written beside and renamed when whole: what was cut short is never taken for shards.
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=root.parent) as folder:
        write_shards(source, f"{folder}/shards", rows_per_row_group=rows)
        if not is_shards(str(root)):
            Path(folder, "shards").rename(root)
    return str(root)
