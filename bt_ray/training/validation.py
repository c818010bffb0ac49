"""Images that are held out of a run's training: a part of its own, or what the user names."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bt_ray.config import Settings
from bt_ray.data.preparation.prepare import prepare_data, root_of, write_source
from bt_ray.data.shards.manifest import Manifest
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.shards.subset import draw_balanced, subset
from bt_ray.data.sources import Source
from bt_ray.errors import DataError, SettingsError
from bt_ray.evaluation.labelled import read_labels


def split_training(settings: Settings, *, share: float, seed: int = 0) -> tuple[str, str]:
    """Two parts of the training images: shards to learn from, and shards held out.

    They lie below the storage, written once: the same images with the same `share` and `seed` give
    the same shards, whatever else the settings say.

    Args:
      settings: `data.train` names shards; storage located.
      share: of the images that is held out, above 0 and below 1; equally many of each class where
        all are labelled, any where not.
      seed: of the draw; not `training.seed`, so that runs of other seeds share the split.
    Raises: SettingsError if one of the parts would have too few images; DataError.
    """
    rows = settings.data.rows_per_row_group
    train, held_out = (
        write_source(part, settings.storage, rows_per_row_group=rows)
        for part in _parts(settings, share, seed)
    )
    return train, held_out


def _parts(settings: Settings, share: float, seed: int) -> tuple[Source, Source]:
    """The two parts, to be written. Raises: SettingsError if one would have too few images."""
    shards = ShardSet.open(settings.data.train)
    held = draw_rows(shards, share=share, seed=seed)
    _check(settings, shards, held, share)
    kept = np.setdiff1d(np.arange(shards.manifest.num_rows), held)
    return subset(shards, kept, "training images"), subset(shards, held, "held-out images")


def draw_rows(shards: ShardSet, *, share: float, seed: int) -> NDArray[np.int64]:
    """Ascending rows of a share of the images: equally many of each class, if all have one."""
    labels = read_labels(shards).numpy()
    if (labels >= 0).all():
        return draw_balanced(labels, len(shards.manifest.classes), share=share, seed=seed)
    order = np.random.default_rng(seed).permutation(len(labels))
    return np.sort(order[: round(share * len(labels))])


def _check(settings: Settings, shards: ShardSet, held: NDArray[np.int64], share: float) -> None:
    """Raises SettingsError if a part has too few images."""
    num_kept = shards.manifest.num_rows - len(held)
    if len(held) < 2 or num_kept < settings.data.global_batch:
        raise SettingsError(
            f"A share of {share:g} of {shards.manifest.num_rows:,} training images holds "
            f"{len(held):,} out and leaves {num_kept:,} to learn from; at least 2 and one batch "
            f"(data.global_batch={settings.data.global_batch}) are needed. Give another share, a "
            "smaller batch or more images."
        )


def prepare_validation(settings: Settings) -> Settings:
    """The settings with `data.validation` naming shards, if probes are to be scored by it.

    They are the images that the user named, or else a part of the training images, without which
    `data.train` then is. What was prepared is left as it is.

    Args:
      settings: `data.train` and `data.test` name shards; storage located.
    Raises: DataError if the images named are those of `data.train` or `data.test`, or of other
      classes; SettingsError if there are too few to hold some out.
    """
    data = settings.data
    if data.validation is not None:
        named = replace(settings, data=replace(data, test=data.validation))
        root = prepare_data(named).data.test
        _check_apart(settings, str(root))
        return replace(settings, data=replace(data, validation=root))
    if not holds_out(settings):
        return settings
    train, held_out = split_training(settings, share=data.validation_share)
    return replace(settings, data=replace(data, train=train, validation=held_out))


def holds_out(settings: Settings) -> bool:
    """Whether a part of the training images will be held out."""
    return settings.training.selects and settings.data.validation is None


def locate_validation(settings: Settings) -> Settings:
    """The settings as `prepare_validation` would return them, where a part is held out.

    Nothing is written. Raises: SettingsError if there are too few images.
    """
    if not holds_out(settings):
        return settings
    rows = settings.data.rows_per_row_group
    train, held_out = (
        root_of(part, settings.storage, rows)
        for part in _parts(settings, settings.data.validation_share, seed=0)
    )
    return replace(settings, data=replace(settings.data, train=train, validation=held_out))


def without_held_out(settings: Settings, manifest: Manifest) -> Manifest:
    """That of the training images, with as many of them as will be trained on."""
    if not holds_out(settings):
        return manifest
    num_classes, share = max(1, len(manifest.classes)), settings.data.validation_share
    held = num_classes * max(1, round(share * manifest.num_rows / num_classes))
    kept = max(0, manifest.num_rows - held)
    num_bytes = manifest.num_bytes * kept // max(1, manifest.num_rows)
    return replace(manifest, num_rows=kept, num_bytes=num_bytes)


def _check_apart(settings: Settings, root: str) -> None:
    """Raises DataError if the validation images are also trained on, or tested on."""
    content = ShardSet.open(root).manifest.content
    for name in ("train", "test"):
        other = getattr(settings.data, name)
        if other is not None and ShardSet.open(other).manifest.content == content:
            raise DataError(
                f"data.validation is data.{name}, image by image: a checkpoint is chosen by images "
                "that are neither trained on nor tested on. Name others, or none: then a part of "
                "the training images is held out."
            )


def note_on_validation(settings: Settings) -> str | None:
    """A sentence on what probes were scored by, and what was not trained on for it."""
    if settings.data.validation is None:
        return None
    held, trained = (
        ShardSet.open(root).manifest.num_rows
        for root in (settings.data.validation, settings.data.train)
    )
    return (
        f"{held:,} images are held out to score probes by (data.validation), and not trained on; "
        f"{trained:,} are."
    )
