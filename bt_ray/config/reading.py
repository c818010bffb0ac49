"""Settings to and from JSON, and with values replaced; every key and type is checked."""

import dataclasses
import difflib
import json
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from bt_ray.config.checks import require
from bt_ray.config.flat import flatten, shown
from bt_ray.config.settings import Settings
from bt_ray.errors import SettingsError

T = TypeVar("T")

SETTINGS_FILE = "settings.json"
"""Name of the settings' file, in a run's folder and in every checkpoint."""


def to_json(settings: Settings, *, with_secrets: bool = False) -> str:
    """`settings` as JSON text that `from_json` reads back to an equal value.

    Args:
      with_secrets: keep passwords and keys in URIs: for what is never written.
    """
    tree = dataclasses.asdict(settings)
    return json.dumps(tree if with_secrets else shown(tree), indent=2, ensure_ascii=False)


def from_json(text: str) -> Settings:
    """The settings written in `text`.

    Raises: SettingsError for text that is not JSON, an unknown or missing key, or a bad value.
    """
    try:
        tree = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise SettingsError(f"These settings are not JSON: {error}.") from error
    return _read_section(Settings, tree, "")


def read_settings(file: Path) -> Settings:
    """The settings in a file.

    Raises: SettingsError, which names the file, if it was altered or is of something else; OSError.
    """
    try:
        return from_json(file.read_bytes().decode())
    except (SettingsError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file} holds no settings of a run: {error}") from error


def override(settings: Settings, changes: Mapping[str, Any]) -> Settings:
    """`settings` with some values replaced.

    Args:
      changes: dotted key → value, such as {"objective.redundancy_weight": 0.01}.
    Raises: SettingsError for an unknown key (the nearest known one is named) or a bad value.
    """
    tree = dataclasses.asdict(settings)
    known = flatten(settings)
    for key, value in changes.items():
        if key not in known:
            raise SettingsError(_unknown(key, list(known)))
        *sections, leaf = key.split(".")
        branch = tree
        for section in sections:
            branch = branch[section]
        branch[leaf] = value
    return _read_section(Settings, tree, "")


def _unknown(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
    return f"There is no setting {key!r}; the nearest is {near[0]!r}."


def _read_section(cls: type[T], tree: Any, prefix: str) -> T:
    if not isinstance(tree, Mapping):
        raise SettingsError(f"{prefix or 'settings'} must be a group of settings, not {tree!r}.")
    hints = typing.get_type_hints(cls)
    for key in tree:
        if key not in hints:
            raise SettingsError(_unknown(f"{prefix}{key}", [f"{prefix}{h}" for h in hints]))
    values = {key: _read_value(hints[key], value, f"{prefix}{key}") for key, value in tree.items()}
    try:
        return cls(**values)
    except TypeError as error:
        raise SettingsError(f"Incomplete settings: {error}.") from error


def _read_value(hint: Any, value: Any, key: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _read_section(typing.cast(type, hint), value, f"{key}.")
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        if type(value) in arguments:
            return value
        return _read_value(arguments[0], value, key)
    if origin is Literal:
        known = ", ".join(map(str, arguments))
        require(value in arguments, f"{key}={value!r} must be one of {known}.")
        return value
    if origin is tuple:
        require(
            isinstance(value, list | tuple)
            and (arguments[-1] is Ellipsis or len(value) == len(arguments)),
            f"{key}={value!r} must be a list of {arguments[0].__name__}, "
            f"{'of any length' if arguments[-1] is Ellipsis else f'{len(arguments)} of them'}.",
        )
        return tuple(_read_value(arguments[0], item, key) for item in value)
    if hint is float and type(value) is int:
        return float(value)
    require(type(value) is hint, f"{key}={value!r} must be of type {hint.__name__}.")
    return value
