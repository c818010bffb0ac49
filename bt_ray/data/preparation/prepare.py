"""Turns the images that a user names into shards, written once below the storage of all runs."""

import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from bt_ray.config import Pixels, Settings
from bt_ray.data.location import MANIFEST, public_name
from bt_ray.data.preparation.alone import is_json, remove_mended, sole_writer
from bt_ray.data.preparation.job import Treatment
from bt_ray.data.preparation.runner import open_runner_within
from bt_ray.data.preparation.statistics import known_statistics
from bt_ray.data.preparation.tasks import OnProgress
from bt_ray.data.preparation.write import write_shards
from bt_ray.data.shards.manifest import SCHEMA_VERSION, Manifest
from bt_ray.data.shards.shard_set import ShardSet, is_shards
from bt_ray.data.sources import Source, open_source
from bt_ray.errors import DataError
from bt_ray.storage.names import is_far
from bt_ray.storage.store import Store

_log = logging.getLogger(__name__)
_ROW_BYTES = 20  # of a table: numbers and offsets, beside names and images
_LOG_EVERY_S = 30.0
_USUAL = Pixels()

SAME_IMAGES = (
    "data.test is data.train, image by image: kNN finds each image itself, and its accuracy says "
    "nothing. Give data.test images that are not trained on, or none."
)


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


class ProgressLog:
    """Logs now and then how many images are done; nothing of what takes less than half a minute."""

    def __init__(self) -> None:
        self._last_s = time.monotonic()

    def __call__(self, phase: str, done: int, total: int) -> None:
        """Hears that `done` of `total` images are through this phase."""
        if time.monotonic() - self._last_s >= _LOG_EVERY_S:
            self._last_s = time.monotonic()
            _log.warning("Preparing the images: %s of %s %s.", f"{done:,}", f"{total:,}", phase)


def prepare_data(settings: Settings, on_progress: OnProgress | None = None) -> Settings:
    """The settings with `data.train` and `data.test` naming shards, written if need be.

    Of images that are not 8-bit RGB, `data.mean` and `data.std` are those of the training images.

    Large sources are prepared by all CPUs of the Ray cluster that is joined, or else of this
    machine. However that ends, the next call with the same images goes on from there.

    Args:
      on_progress: called with the phase, the images done and all images; none: a line is logged
        now and then.
    Raises: DataError if both are labelled, with different classes; if images cannot be decoded,
      and `data.on_bad_image` does not leave them out; or if the images are many and not all nodes
      of the cluster reach them.
    """
    train, test = describe_data(settings)
    treatment = Treatment(on_bad_image=settings.data.on_bad_image, pixels=settings.data.pixels)
    for described in (train, test):
        if described is not None and described.source is not None:
            rows = settings.data.rows_per_row_group
            told = on_progress or ProgressLog()
            _write(described.source, described.root, rows, told, treatment)
    test_root = None if test is None else test.root
    manifest = ShardSet.open(train.root).manifest
    if test_root is not None and manifest.content == ShardSet.open(test_root).manifest.content:
        _log.warning(SAME_IMAGES)
    data = replace(settings.data, train=train.root, test=test_root)
    return known_statistics(replace(settings, data=data), manifest)


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
        manifest = ShardSet.open(root).manifest
        _check_pixels(root, manifest.pixels, settings.data.pixels)
        return Described(root, manifest, None)
    is_bare = settings.data.labels == "none"
    source = open_source(name, "none" if is_bare else None)
    rows, pixels = settings.data.rows_per_row_group, settings.data.pixels
    root = root_of(source, settings.storage, rows, pixels)
    if _is_finished(root):
        return Described(root, ShardSet.open(root).manifest, None)
    return Described(root, expected_manifest(source, rows, pixels), source)


def _check_pixels(root: str, theirs: Pixels, wanted: Pixels) -> None:
    """Raises DataError for shards whose images were not seen to decode to these pixels."""
    if theirs != wanted:
        raise DataError(
            f"The shards in {public_name(root)!r} were prepared as {theirs.words}, and "
            f"data.channels={wanted.channels}, data.bit_depth={wanted.bit_depth} and "
            f"data.orientation={wanted.orientation} want {wanted.words}. Prepare their source "
            f"again (`python -m pipelines.prepare SOURCE NEW_FOLDER {wanted.flags}`), or set what "
            "the shards are."
        )


def expected_manifest(source: Source, rows_per_row_group: int, pixels: Pixels = _USUAL) -> Manifest:
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
        channels=pixels.channels,
        bit_depth=pixels.bit_depth,
        orientation=pixels.orientation,
    )


def write_source(
    source: Source,
    storage: str,
    *,
    rows_per_row_group: int,
    pixels: Pixels = _USUAL,
    on_bad_image: Literal["stop", "skip"] = "stop",
    way_out: str | None = None,
) -> str:
    """The shards of `source` below the storage of all runs, written if they are not there.

    Args:
      way_out: how a user goes on without bad images; none: as a run does.
    """
    root = root_of(source, storage, rows_per_row_group, pixels)
    if not _is_finished(root):
        treatment = Treatment(pixels=pixels, on_bad_image=on_bad_image)
        _write(source, root, rows_per_row_group, ProgressLog(), treatment, way_out)
    return root


def root_of(source: Source, storage: str, rows_per_row_group: int, pixels: Pixels = _USUAL) -> str:
    """Where the shards of `source` lie below the storage of all runs, once they are written."""
    name = f"{source.identity}-{rows_per_row_group}"
    if not pixels.is_usual:
        name += f"-{pixels.channels}x{pixels.bit_depth}"
        name += "-exif" * (pixels.orientation == "exif")
    return Store(storage).below(f"shards/{name}").uri


def _is_finished(root: str) -> bool:
    """Whether the folder holds all shards; a manifest that was emptied or cut short says nothing.

    Then they are written anew: a folder below the storage is named by what it holds.
    """
    try:
        return is_shards(root) and bool(ShardSet.open(root))
    except DataError:
        tree = Store(root).read(MANIFEST)
        if is_json(tree):
            raise
        return False


def _flags(pixels: Pixels) -> str:
    """What the command that prepares these is given beside, if they are not the usual."""
    return "" if pixels.is_usual else f" {pixels.flags}"


def _write(
    source: Source,
    root: str,
    rows_per_row_group: int,
    on_progress: OnProgress,
    treatment: Treatment,
    way_out: str | None = None,
) -> None:
    """Writes the shards, or goes on to, where no other process does."""
    store = Store(root)
    with sole_writer(root, source):
        if _is_finished(root):
            return
        if MANIFEST in store.sizes():
            _log.warning("%s is empty or was cut short; the shards are written anew.", store.shown)
            store.clear()
        if not is_far(root):
            remove_mended(Path(root), source)
        with open_runner_within(
            source, root, rows_per_row_group=rows_per_row_group, flags=_flags(treatment.pixels)
        ) as run_all:
            write_shards(
                source,
                root,
                rows_per_row_group=rows_per_row_group,
                treatment=treatment,
                run_all=run_all,
                on_progress=on_progress,
                way_out=way_out
                or "--data.on-bad-image skip (or, for a command without it, `python -m "
                f"pipelines.prepare {source.name} NEW_FOLDER --on-bad-image skip"
                f"{_flags(treatment.pixels)}`, and that folder in their place)",
            )
