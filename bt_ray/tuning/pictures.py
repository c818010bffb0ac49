"""Pictures of a sweep: Optuna's own, and ours; kept in its folder and with its MLflow run."""

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.visualization import matplotlib as optuna_plots

from bt_ray.errors import TrackingError
from bt_ray.figures.sweep import Point, draw_sweep_points
from bt_ray.tuning.study_storage import answering_study, open_study_storage
from bt_ray.tuning.trial import TrialOrder

_log = logging.getLogger(__name__)

_PLOTS: dict[str, Callable[..., Any]] = {
    "parallel_coordinate": optuna_plots.plot_parallel_coordinate,
    "importance": optuna_plots.plot_param_importances,
    "slice": optuna_plots.plot_slice,
}


def draw_sweep(order: TrialOrder, folder: Path) -> list[Path]:
    """Draws the pictures that the trials so far allow; their files.

    Optuna's importances, for example, need two finished trials of different scores. If the MLflow
    server does not answer, the pictures are in the folder alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    points = [Point(r.params, r.state, r.score) for r in order.records]
    ours = folder / "scores.png"
    draw_sweep_points(points, score=order.score, title=order.name, file=ours)
    with answering_study(order.study):
        storage = open_study_storage(order.study)
        study = optuna.load_study(study_name=order.name, storage=storage)
        files = [ours, *_draw_optunas(study, folder)]
    try:
        for file in files:
            order.parent.log_file(file, "figures")
    except TrackingError as away:
        _log.warning("%s The figures are in %s.", away, folder)
    return files


def _draw_optunas(study: optuna.Study, folder: Path) -> list[Path]:
    files = []
    for name, plot in _PLOTS.items():
        try:
            with warnings.catch_warnings(), plt.rc_context({"backend": "agg"}):
                warnings.simplefilter("ignore", ExperimentalWarning)
                warnings.simplefilter("ignore", UserWarning)
                axes = plot(study)
                first = axes.flat[0] if hasattr(axes, "flat") else axes
                first.figure.set_size_inches(9, 5)
                first.figure.savefig(folder / f"{name}.png", dpi=120, bbox_inches="tight")
            files.append(folder / f"{name}.png")
        except (ValueError, RuntimeError) as error:
            _log.info("Optuna draws no %s plot: %s", name, error)
        finally:
            plt.close("all")
    return files
