"""Checks that a group of settings makes of its own values.

Each raises SettingsError with a sentence that names the setting, its value and the rule.
`section` is the group's name, as in `data` of `data.global_batch`.
"""

import math

from bt_ray.errors import SettingsError


def require(holds: bool, sentence: str) -> None:
    """Raises SettingsError with this sentence unless the condition holds."""
    if not holds:
        raise SettingsError(sentence)


def require_positive(section: str, owner: object, *names: str) -> None:
    """Raises SettingsError unless the named fields of `owner` are finite and above 0."""
    for name in names:
        value = getattr(owner, name)
        require(
            math.isfinite(value) and value > 0,
            f"{section}.{name}={value} must be a finite number above 0.",
        )


def require_probability(section: str, owner: object, *names: str) -> None:
    """Raises SettingsError unless the named fields, numbers or tuples, lie between 0 and 1."""
    for name in names:
        value = getattr(owner, name)
        values = value if isinstance(value, tuple) else (value,)
        require(
            all(0 <= v <= 1 for v in values),
            f"{section}.{name}={value} must lie between 0 and 1.",
        )


def require_range(section: str, owner: object, *names: str) -> None:
    """Raises SettingsError unless the named fields are pairs of numbers, 0 < low <= high."""
    for name in names:
        low, high = getattr(owner, name)
        require(
            0 < low <= high < math.inf,
            f"{section}.{name}=({low}, {high}) must be two numbers, 0 < low <= high.",
        )
