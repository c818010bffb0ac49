"""A forecast of a sweep: its trials and epochs, and its hours from steps that are timed."""

from dataclasses import dataclass, replace
from statistics import mean

import psutil

from bt_ray.config import Settings, override
from bt_ray.errors import SettingsError
from bt_ray.forecast.forecast import Forecast, forecast
from bt_ray.ray_start import starts_here
from bt_ray.storage.working_copy import pull
from bt_ray.training.run_folder import locate_storage
from bt_ray.tuning.order import SweepOrder
from bt_ray.tuning.records import Records
from bt_ray.tuning.space import SearchSpace
from bt_ray.tuning.sweep import NOT_COPIED, order_points, sweep_folder

_MOST_MEASURED = 3
_DRAWS = 16


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What the rest of a sweep takes at most; pruning makes it less.

    `trials`: trials that are left; `ended`: trials that are not; `seeds`: further runs of the
    winner's settings; `epochs` and `steps`: of each run; `run_hours`: hours of a run that has the
    machine for itself, the mean over `measured` sizes of model; `hours`: hours of all that is left.
    Hours are none where the runs' hardware is not this machine's.
    """

    trials: int
    ended: int
    seeds: int
    epochs: int
    steps: int | None
    run_hours: float | None
    hours: float | None
    measured: int


def forecast_sweep(space: SearchSpace, settings: Settings, order: SweepOrder) -> Budget:
    """The budget of the rest of a sweep, from timed steps of up to three sizes of model.

    Raises: SettingsError if the space does not fit the settings; the first error that a run of
      the settings would end with.
    """
    space.check(settings)
    points = order_points(space, order)
    settings = locate_storage(settings)
    folder = sweep_folder(space, settings)
    pull(folder, NOT_COPIED)
    records = list(Records(folder / "trials"))
    trials = max(0, order.total(len(points)) - len(records))
    if order.retry_failed:
        trials = sum(record.state == "failed" for record in records)
    forecasts = _that_fit([_forecast(changed, folder.name) for changed in _sizes(space, settings)])
    for ahead in forecasts:
        if ahead.problems:
            raise ahead.problems[0]
    known = [ahead.hours for ahead in forecasts if ahead.hours is not None]
    run_hours = mean(known) if len(known) == len(forecasts) else None
    runs = trials + order.seeds - 1
    # On this machine trials share the cores that one alone was timed on.
    beside = 1 if starts_here() else order.at_once or 1
    return Budget(
        trials=trials,
        ended=len(records),
        seeds=order.seeds - 1,
        epochs=settings.schedule.epochs,
        steps=forecasts[0].total_steps,
        run_hours=run_hours,
        hours=None if run_hours is None else runs * run_hours / beside,
        measured=len(forecasts),
    )


def _sizes(space: SearchSpace, settings: Settings) -> list[Settings]:
    """Settings that the space proposes, one for each size of model, batch and image."""
    found: dict[object, Settings] = {}
    for changes in space.draw(_DRAWS):
        changed = override(settings, changes)
        found.setdefault(
            (changed.model, changed.data.global_batch, changed.views.image_px), changed
        )
    return list(found.values())[:_MOST_MEASURED]


def _that_fit(forecasts: list[Forecast]) -> list[Forecast]:
    """Without models that no machine like this one has memory for: such trials are passed over."""
    there = psutil.virtual_memory().total
    return [ahead for ahead in forecasts if ahead.size.memory.total <= there] or forecasts


def _forecast(settings: Settings, name: str) -> Forecast:
    """The forecast of a run in a folder of its own."""
    return forecast(replace(settings, name=f"{name}-forecast"))


def check_budget(budget: Budget, order: SweepOrder) -> None:
    """Raises SettingsError if the sweep would take longer than it may."""
    if order.max_hours is None:
        return
    if budget.hours is None:
        raise SettingsError(
            f"max_hours={order.max_hours:g} cannot be checked: a step cannot be timed on this "
            "machine. Leave --max-hours out, or start where the trials will run."
        )
    if budget.hours > order.max_hours:
        raise SettingsError(
            f"The sweep would take about {budget.hours:.2f} hours, max_hours={order.max_hours:g} "
            "allows less. Lower --trials or --schedule.epochs, or allow more."
        )
