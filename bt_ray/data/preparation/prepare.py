"""Turns the images that a user names into shards, written once below the storage of all runs."""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from bt_ray.config import Settings
from bt_ray.data.preparation.write import write_shards
from bt_ray.data.shards.manifest import SCHEMA_VERSION, Manifest
from bt_ray.data.shards.shard_set import ShardSet, is_shards
from bt_ray.data.sources import Source, open_source
from bt_ray.errors import DataError

_ROW_BYTES = 20  # of a table: numbers and offsets, beside names and images


@dataclass(frozen=True)
class Described:
    """The shards of the images that a user named, which may not be written yet.

    `root` is the shards' folder; `source` is what they will be written from, None if they exist.
    """

    root: str
    manifest: Manifest
    source: Source | None

    @property
    def bytes_to_write(self) -> int:
        """Size in bytes of the shards still to be written; 0 if they exist."""
        return 0 if self.source is None else self.manifest.num_bytes


def prepare_data(settings: Settings) -> Settings:
    """The settings with `data.train` and `data.test` naming shards, written if need be.

    Raises: DataError if both are labelled, with different classes.
    """
    train, test = describe_data(settings)
    for described in (train, test):
        if described is not None and described.source is not None:
            _write(described.source, Path(described.root), settings.data.rows_per_row_group)
    test_root = None if test is None else test.root
    return replace(settings, data=replace(settings.data, train=train.root, test=test_root))


def describe_data(settings: Settings) -> tuple[Described, Described | None]:
    """The shards of `data.train` and of `data.test`, if it is given; nothing is written.

    Raises: DataError if one of them names no images, or if both are labelled, with different
      classes.
    """
    train = _describe(settings.data.train, settings)
    if settings.data.test is None:
        return train, None
    test = _describe(settings.data.test, settings)
    classes = [described.manifest.classes for described in (train, test)]
    if all(classes) and classes[0] != classes[1]:
        odd = sorted(set(classes[0]) ^ set(classes[1]))
        raise DataError(
            f"data.train and data.test must have the same classes; only one of them has "
            f"{', '.join(odd[:5])}{' …' if len(odd) > 5 else ''}."
        )
    return train, test


def _describe(name: str, settings: Settings) -> Described:
    if is_shards(name):
        root = name if "://" in name else str(Path(name).expanduser().resolve())
        return Described(root, ShardSet.open(root).manifest, None)
    source = open_source(name)
    rows = settings.data.rows_per_row_group
    root = _root_of(source, settings.storage, rows)
    if is_shards(root):
        return Described(root, ShardSet.open(root).manifest, None)
    return Described(root, expected_manifest(source, rows), source)


def expected_manifest(source: Source, rows_per_row_group: int) -> Manifest:
    """The manifest that `write_shards` would write for the source, without its list of shards.

    It has the same counts, so it leads to the same plan.
    """
    full, rest = divmod(len(source), rows_per_row_group)
    bits = 0 if source.classes else full * -(-rows_per_row_group // 8) + -(-rest // 8)  # of nulls
    return Manifest(
        schema_version=SCHEMA_VERSION,
        identity=source.identity,
        classes=source.classes,
        num_rows=len(source),
        num_bytes=source.num_bytes + _ROW_BYTES * len(source) + bits,
        rows_per_row_group=rows_per_row_group,
        shards=(),
    )


def write_source(source: Source, storage: str, *, rows_per_row_group: int) -> str:
    """The shards of `source` below the storage of all runs, written if they are not there."""
    root = _root_of(source, storage, rows_per_row_group)
    if not is_shards(root):
        _write(source, Path(root), rows_per_row_group)
    return root


def _root_of(source: Source, storage: str, rows_per_row_group: int) -> str:
    return str(Path(storage) / "shards" / f"{source.identity}-{rows_per_row_group}")


def _write(source: Source, root: Path, rows_per_row_group: int) -> None:
    root.parent.mkdir(parents=True, exist_ok=True)
    # Written beside and renamed when whole: what was cut short is never taken for shards.
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=root.parent) as folder:
        write_shards(source, f"{folder}/shards", rows_per_row_group=rows_per_row_group)
        if not is_shards(str(root)):
            Path(folder, "shards").rename(root)
