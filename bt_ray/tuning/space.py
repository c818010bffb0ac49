"""A search space: which settings vary, within what, and where to start."""

import importlib
from dataclasses import dataclass
from typing import Any

from bt_ray.config import Settings, override
from bt_ray.errors import SettingsError


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """What a module of `tune_spaces` defines as `SPACE`.

    `parameters`: dotted key of a setting → a Ray Tune domain.
    `points`: values to try before the search proposes its own, such as the paper's.
    """

    name: str
    parameters: dict[str, Any]
    points: tuple[dict[str, Any], ...] = ()

    def check(self, settings: Settings) -> None:
        """Raises SettingsError if a key is no setting, or a point no value of it."""
        if not self.parameters:
            raise SettingsError(f"The search space {self.name!r} is empty; name a setting to vary.")
        override(settings, {key: domain.sample() for key, domain in self.parameters.items()})
        for point in self.points:
            override(settings, point)


def load_space(name: str) -> SearchSpace:
    """The space in `tune_spaces/<name>.py`.

    Raises: SettingsError if there is no such file.
    """
    try:
        module = importlib.import_module(f"tune_spaces.{name}")
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"There is no search space {name!r}; add tune_spaces/{name}.py with a SPACE."
        ) from error
    space: SearchSpace = module.SPACE
    return space
