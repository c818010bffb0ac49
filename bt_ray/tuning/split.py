"""Validation images: a part of the training images that settings are chosen on."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bt_ray.config import Settings
from bt_ray.data.preparation.prepare import prepare_data, write_source
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.shards.subset import draw_balanced, subset
from bt_ray.errors import SettingsError
from bt_ray.evaluation.labelled import read_labels
from bt_ray.training.run_folder import locate_storage, open_storage


def hold_out(settings: Settings, *, share: float = 0.1, seed: int = 0) -> Settings:
    """The settings with part of the training images held out: it becomes `data.test`.

    Both are shards below the storage, written once: the same images with the same `share` and
    `seed` give the same shards, whatever else the settings say.

    Args:
      share: of the training images that is held out, above 0 and below 1; equally many of each
        class where all images are labelled, any where not.
      seed: of the draw; not `training.seed`, so that runs of other seeds share the split.
    Raises: SettingsError if one of the parts would have too few images; DataError.
    """
    if not 0 < share < 1:
        raise SettingsError(f"share={share:g} of the training images must lie between 0 and 1.")
    settings = locate_storage(settings)
    open_storage(settings)
    alone = replace(settings, data=replace(settings.data, test=None))
    shards = ShardSet.open(prepare_data(alone).data.train)
    held = draw_rows(shards, share=share, seed=seed)
    _check(settings, shards, held, share)
    kept = np.setdiff1d(np.arange(shards.manifest.num_rows), held)
    train, test = (
        write_source(
            subset(shards, rows, name),
            settings.storage,
            rows_per_row_group=settings.data.rows_per_row_group,
            pixels=settings.data.pixels,
        )
        for rows, name in ((kept, "training images"), (held, "held-out images"))
    )
    return replace(settings, data=replace(settings.data, train=train, test=test))


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
