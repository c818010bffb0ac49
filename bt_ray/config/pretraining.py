"""Whether settings serve to pretrain: what is no fault of a setting, but of this use of it."""

from bt_ray.config.checks import require
from bt_ray.config.names import check_names
from bt_ray.config.settings import Settings


def check_pretraining(settings: Settings) -> None:
    """Raises SettingsError for settings that pretraining cannot use.

    That is one view an image, and names that MLflow or the storage would refuse later.
    """
    require(
        settings.views.count == 2,
        f"views.count={settings.views.count} serves to train a classifier; pretraining compares 2.",
    )
    check_names(settings)
