"""A tree of settings as one dict by dotted key, and how two trees differ."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from bt_ray.config.settings import Settings
from bt_ray.redaction import without_credentials

_WITHOUT_A_PART = (
    "data.max_bad_rate",
    "data.on_bad_image",
    "model.start_sha256",
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
    return dict(_leaves(settings, ""))


def in_use(settings: Settings) -> dict[str, Any]:
    """The same without the settings of methods that `objective.method` does not name."""
    used = f"objective.{settings.objective.method}."
    return {
        key: value
        for key, value in flatten(settings).items()
        if not (key.startswith("objective.") and key.count(".") > 1) or key.startswith(used)
    }


def _leaves(group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(group):
        value = getattr(group, field.name)
        if dataclasses.is_dataclass(value):
            yield from _leaves(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", shown(value)


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
    mine, theirs = shaping(one), shaping(other)
    return [key for key in mine if key not in theirs or mine[key] != theirs[key]]


def shaping(settings: Settings) -> dict[str, Any]:
    """The settings that shape a run's result, by dotted key.

    Left out: settings of methods that are not in use, names, folders, the workers, tracking, what
    is done about bad images, the sum of the first weights (their place is compared by its content),
    after how many minutes a checkpoint is due, which ones are kept, after how many probes the run
    ends, whether activations are computed again, and whether a GPU computes the same bits each
    time.
    """
    return {
        key: value
        for key, value in in_use(settings).items()
        if key.split(".")[0] not in ("name", "storage", "scaling", "tracking")
        and key not in _WITHOUT_A_PART
    }
