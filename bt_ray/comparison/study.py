"""A comparison as a study: a case for each method, and one more for the untrained encoder."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from bt_ray.ablations.study import Case, Changes, Study
from bt_ray.config import Method, Settings, check_pretraining, override
from bt_ray.config.methods import MULTI_CROP, TITLES
from bt_ray.errors import SettingsError
from bt_ray.method_presets import changes_of
from bt_ray.methods.build import LEARNERS

UNTRAINED = Case(label="untrained encoder", trains=False)
"""First weights are the same for all methods: the seed draws the encoder before all else."""
LABEL_PERCENT = 1.0
_PROBES = 4
_SMALL_SHARE = 96 / 224
"""Side of a smaller view beside that of the two (Caron et al. 2020, section 3.3)."""
_PROBE_EVERY = "training.probe_every_epochs"


@dataclass(frozen=True, kw_only=True)
class Entrants:
    """Which methods are compared, and what is searched for each of them."""

    methods: Sequence[Method] = tuple(LEARNERS)
    """The first one is what the others are compared with."""
    rates: Sequence[float] = (0.5, 1.0, 2.0, 4.0)
    """Multiples of the preset's rate of weights; of one, nothing is searched."""
    small_views: int = 0
    """Smaller views an image, of a second row for each method that takes them; 0: no such row."""


def build_study(settings: Settings, entrants: Entrants) -> Study:
    """Every method with its own settings (`method_presets`), its rate to be searched.

    Args:
      settings: those of Barlow Twins, as presets are.
    Raises: SettingsError for a method that is unknown or named twice, for a rate that is no
      multiple, and for settings that a method cannot have.
    """
    _check(settings, entrants)
    cases = []
    for method in entrants.methods:
        changes = {
            "objective.method": method,
            **changes_of(method, settings),
            _PROBE_EVERY: probe_every(settings),
        }
        cases.append(_case(TITLES[method], settings, changes, entrants))
        if entrants.small_views > 0 and method in MULTI_CROP:
            smaller = {
                "views.small_count": entrants.small_views,
                "views.small_px": max(4, round(settings.views.image_px * _SMALL_SHARE)),
            }
            label = f"{TITLES[method]}, multi-crop"
            cases.append(_case(label, settings, changes | smaller, entrants))
    if settings.model.start_from is None:
        cases.append(UNTRAINED)
    return Study(name="comparison", title="Methods side by side", cases=tuple(cases))


def _case(label: str, settings: Settings, changes: Changes, entrants: Entrants) -> Case:
    """A method with these changes, and the rates that are searched for it."""
    own = override(settings, changes)
    check_pretraining(own)
    name = own.optimizer.rate_setting
    rates = [float(f"{multiple * own.optimizer.rate:.6g}") for multiple in entrants.rates]
    is_searched = len(rates) > 1
    return Case(
        label=label,
        changes=changes if is_searched else changes | {name: rates[0]},
        candidates=tuple({name: rate} for rate in rates) if is_searched else (),
    )


def probe_every(settings: Settings) -> float:
    """Epochs between two probes: the settings', or fewer, for four of them after the first."""
    return min(settings.training.probe_every_epochs, settings.schedule.epochs / _PROBES)


def method_of(case: Case) -> Method | None:
    """The method that a case trains; none for the untrained encoder."""
    return case.changes.get("objective.method")


def _check(settings: Settings, entrants: Entrants) -> None:
    """Raises SettingsError for what cannot be compared."""
    methods, rates = list(entrants.methods), list(entrants.rates)
    if settings.objective.method != "barlow_twins":
        raise SettingsError(
            f"objective.method={settings.objective.method}: a comparison starts from settings of "
            "barlow_twins and changes them for each method; name the others by --methods."
        )
    if not methods:
        raise SettingsError("--methods names none; name one at least, such as barlow_twins.")
    for method in methods:
        if method not in LEARNERS:
            known = ", ".join(LEARNERS)
            near = get_close_matches(method, LEARNERS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {known}."
            raise SettingsError(f"--methods {method} is no method; {hint}")
        if methods.count(method) > 1:
            raise SettingsError(f"--methods names {method} twice; name each method once.")
    if not rates or not all(math.isfinite(rate) and rate > 0 for rate in rates):
        raise SettingsError(
            f"--rates {' '.join(map(str, rates))} must be finite numbers above 0, one at least: "
            "multiples of the preset's rate."
        )
    if len(set(rates)) < len(rates):
        raise SettingsError(f"--rates {' '.join(map(str, rates))} has one twice.")
