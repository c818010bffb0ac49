"""A search space: which settings vary, within what, and where to start."""

import importlib
import importlib.util
import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import optuna
from optuna.distributions import BaseDistribution

from bt_ray.config import Settings, check_pretraining, in_use, override
from bt_ray.errors import BtRayError, SettingsError

Params = dict[str, Any]
"""Drawn values by the names that the search gives them."""
Changes = Mapping[str, Any]
"""Dotted key of a setting → its value."""

_DRAWS_CHECKED = 64


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """What a file of `tune_spaces` defines as `SPACE`.

    `propose`: given an `optuna.Trial`, draws values by its `suggest_…` and says which settings
    follow; what it draws may depend on what it drew before.
    `points`: values to try before the search proposes its own, such as the paper's.
    `grid`: values to try one after the other, and no others, where a grid is wanted.
    """

    name: str
    propose: Callable[[Any], Changes]
    points: tuple[Params, ...] = ()
    grid: tuple[Params, ...] = ()

    def check(self, settings: Settings) -> None:
        """Tries the points, the grid and many draws on the settings.

        Raises: SettingsError if the space is empty, a key is no setting or is one of a method that
          the settings do not name, or a setting cannot have its value or pretraining not use it.
        """
        if not any(changes for _, changes in self._draws(_DRAWS_CHECKED)):
            raise SettingsError(f"The search space {self.name!r} is empty; name a setting to vary.")
        for params, changes in itertools.chain(self._draws(_DRAWS_CHECKED), self._fixed()):
            if not params:
                raise SettingsError(
                    f"The search space {self.name!r} draws nothing; use trial.suggest_float, "
                    "suggest_int or suggest_categorical."
                )
            changed = override(settings, changes)
            self._check_in_use(changed, changes)
            self._check_usable(changed)

    def _check_in_use(self, changed: Settings, changes: Changes) -> None:
        """Raises SettingsError if a change makes no difference, being of another method."""
        idle = sorted(changes.keys() - in_use(changed).keys())
        if idle:
            method = idle[0].split(".")[1]
            raise SettingsError(
                f"The search space {self.name!r} varies {idle[0]}, which counts only with "
                f"objective.method={method}; add --objective.method {method}."
            )

    def _check_usable(self, changed: Settings) -> None:
        """Raises SettingsError for values that a trial's run would refuse."""
        try:
            check_pretraining(changed)
        except SettingsError as error:
            raise SettingsError(
                f"The search space {self.name!r} draws what cannot be trained: {error} Give such "
                "settings, or copy the space and draw only what these allow."
            ) from error

    def draw(self, count: int) -> list[Changes]:
        """The first `count` changes: those of the points, then of random draws."""
        fixed = [changes for _, changes in self._fixed(with_grid=False)]
        return [*fixed, *(changes for _, changes in self._draws(count))][:count]

    def distributions(self) -> dict[str, BaseDistribution]:
        """What each value is drawn from, by its name."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        trials = [study.ask() for _ in range(_DRAWS_CHECKED)]
        for trial in trials:
            self._propose(trial)
        return {name: drawn for trial in trials for name, drawn in trial.distributions.items()}

    def _propose(self, trial: Any) -> Changes:
        """What `propose` says. Raises: SettingsError for an error in it."""
        try:
            return self.propose(trial)
        except (ValueError, UserWarning, BtRayError):
            raise
        except Exception as error:  # the code is the user's
            raise SettingsError(
                f"The search space {self.name!r} cannot propose values: "
                f"{type(error).__name__}: {error}. Mend its `propose`."
            ) from error

    def _draws(self, count: int) -> Iterator[tuple[Params, Changes]]:
        """Random draws, the same each time."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        for _ in range(count):
            trial = study.ask()
            changes = self._propose(trial)
            yield trial.params, changes

    def _fixed(self, *, with_grid: bool = True) -> Iterator[tuple[Params, Changes]]:
        """What the points and the grid mean. Raises: SettingsError for what is never drawn."""
        for point in (*self.points, *(self.grid if with_grid else ())):
            trial = optuna.trial.FixedTrial(point)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("error")  # a value that lies outside of its range
                    changes = self._propose(trial)
            except (ValueError, UserWarning) as error:
                raise SettingsError(
                    f"The search space {self.name!r} cannot draw its point {point}: {error}"
                ) from error
            if unused := set(point) - set(trial.params):
                raise SettingsError(
                    f"The point {point} of the search space {self.name!r} names "
                    f"{', '.join(sorted(unused))}, which it does not draw there."
                )
            yield trial.params, changes


def load_space(name: str) -> SearchSpace:
    """The space in `tune_spaces/<name>.py`, or in a file of yours (`….py`).

    Raises: SettingsError if there is no such file, or no SPACE in it.
    """
    module = _read_file(Path(name)) if name.endswith(".py") else _import(name)
    space = getattr(module, "SPACE", None)
    if not isinstance(space, SearchSpace):
        raise SettingsError(f"{module.__file__} defines no SPACE = SearchSpace(…); copy another.")
    return space


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(f"tune_spaces.{name}")
    except ModuleNotFoundError as error:
        if error.name not in ("tune_spaces", f"tune_spaces.{name}"):
            raise SettingsError(f"tune_spaces/{name}.py cannot be read: {error}.") from error
        raise SettingsError(
            f"There is no search space {name!r}; add tune_spaces/{name}.py "
            "with a SPACE, or give the path of such a file."
        ) from error
    except Exception as error:  # the code is the user's
        raise SettingsError(
            f"tune_spaces/{name}.py cannot be read ({type(error).__name__}: {error}); mend it."
        ) from error


def _read_file(file: Path) -> ModuleType:
    if not file.is_file():
        raise SettingsError(f"There is no search space {str(file)!r}; give a file that exists.")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the code is the user's
        raise SettingsError(
            f"{file} cannot be read ({type(error).__name__}: {error}); mend it."
        ) from error
    return module
