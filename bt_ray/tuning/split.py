"""Validation images: a part of the training images that settings are chosen on."""

from dataclasses import replace

from bt_ray.config import Settings
from bt_ray.data.preparation.prepare import prepare_data
from bt_ray.errors import SettingsError
from bt_ray.training.run_folder import locate_storage, open_storage
from bt_ray.training.validation import split_training


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
    train, test = split_training(prepare_data(alone), share=share, seed=seed)
    return replace(settings, data=replace(settings.data, train=train, test=test))
