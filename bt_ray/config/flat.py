"""A tree of settings as one dict by dotted key, and how two trees differ."""

import dataclasses
from typing import Any

from bt_ray.config.settings import Settings
from bt_ray.redaction import without_credentials

_WITHOUT_A_PART = (
    "data.max_bad_rate",
    "data.on_bad_image",
    "training.activation_checkpointing",
    "training.checkpoint_every_minutes",
    "training.deterministic",
    "training.keep_best",
    "training.patience",
)
"""Settings of rooms that shape a result, which do not."""

PLACES = ("data.train", "data.test", "data.validation", "model.start_from")
"""Settings that name a place, where something may be moved to, or copied to."""


def flatten(settings: Settings) -> dict[str, Any]:
    """Every value of `settings` by its dotted key, such as `data.global_batch`.

    They are values to show and to compare: URIs come without passwords and keys.
    """
    flat: dict[str, Any] = {}
    for top in dataclasses.fields(settings):
        value = getattr(settings, top.name)
        if dataclasses.is_dataclass(value):
            for leaf in dataclasses.fields(value):
                flat[f"{top.name}.{leaf.name}"] = shown(getattr(value, leaf.name))
        else:
            flat[top.name] = shown(value)
    return flat


def shown(value: Any) -> Any:
    """A value, or a tree of values, whose URIs hold no password and no key."""
    if isinstance(value, str):
        return without_credentials(value)
    if isinstance(value, dict):
        return {key: shown(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(shown(item) for item in value)
    return value


def differences(one: Settings, other: Settings) -> list[str]:
    """Dotted keys of the settings that shape a run's result and differ between the two trees."""
    theirs = shaping(other)
    return [key for key, value in shaping(one).items() if value != theirs[key]]


def shaping(settings: Settings) -> dict[str, Any]:
    """The settings that shape a run's result, by dotted key.

    Left out: names, folders, the workers, tracking, what is done about bad images, after how
    many minutes a checkpoint is due, which ones are kept, after how many probes the run ends,
    whether activations are computed again, and whether a GPU computes the same bits each time.
    """
    return {
        key: value
        for key, value in flatten(settings).items()
        if key.split(".")[0] not in ("name", "storage", "scaling", "tracking")
        and key not in _WITHOUT_A_PART
    }
