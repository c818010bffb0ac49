"""Whether settings serve to pretrain: what is no fault of a setting, but of this use of it."""

from bt_ray.config.checks import require
from bt_ray.config.data import COLOURS
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


def idle_colours(settings: Settings) -> str | None:
    """A sentence if views have settings of colours, and images other than three channels."""
    views, channels = settings.views, settings.data.channels
    if channels == COLOURS:
        return None
    jitters = views.jitter_probability > 0
    idle = {
        "jitter_saturation": views.jitter_saturation if jitters else 0,
        "jitter_hue": views.jitter_hue if jitters else 0,
        "grayscale_probability": views.grayscale_probability,
    }
    named = ", ".join(f"views.{name}={value}" for name, value in idle.items() if value)
    if not named:
        return None
    return (
        f"Images of data.channels={channels} have no colours, and what is set of them changes "
        f"nothing ({named}); --views-preset medical_gray and multispectral are for such images."
    )
