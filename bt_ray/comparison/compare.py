"""A comparison of methods from beginning to end: their rates, their runs, what they came to."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from bt_ray.ablations.ablate import Plan, ablate
from bt_ray.ablations.progress import StudyProgress
from bt_ray.comparison.outcome import Outcome
from bt_ray.comparison.study import LABEL_PERCENT, Entrants, build_study
from bt_ray.config import Settings


def compare(
    settings: Settings,
    entrants: Entrants,
    plan: Plan,
    folder: Path,
    *,
    on_progress: Callable[[StudyProgress], None] = lambda progress: None,
    prepare_process: Callable[[], None] | None = None,
) -> Outcome:
    """What the methods came to; runs whose files are in `folder` are not made again.

    Each method is trained at each rate on nine tenths of the training images and scored on the
    rest; then with the best rate and every seed on all of them. A run that fails is a row's fault
    alone. Each run has a process of its own, so that its memory is its own.

    Args:
      settings: those of Barlow Twins, as presets are.
      plan: its `label_percent` and `apart` are set here.
      prepare_process: called first in each process.
    Raises: SettingsError; DataError; RunStoppedError if a run was told to stop.
    """
    study = build_study(settings, entrants)
    plan = replace(plan, label_percent=LABEL_PERCENT, apart=True)
    rows = ablate(
        study, settings, plan, folder, on_progress=on_progress, prepare_process=prepare_process
    )
    return Outcome(
        study=study, settings=settings, plan=plan, multiples=tuple(entrants.rates), rows=rows
    )
