"""In which arithmetic a run computes: what it began with, or the fastest of its machines."""

from dataclasses import replace
from pathlib import Path

from bt_ray.checkpoints.checkpoint import newest_checkpoint
from bt_ray.config import SETTINGS_FILE, Settings, from_json
from bt_ray.errors import BtRayError
from bt_ray.precision import Precision, precision_on
from bt_ray.training.cluster import best_on_cluster, connect
from bt_ray.training.local import choose_device


def choose_precision(settings: Settings, run_folder: Path) -> Settings:
    """The settings, with `training.precision` auto replaced by what it means for this run.

    A run that has begun keeps its own, also where another would be faster: it continues bit for
    bit. A new one asks the machines that it will compute on, and joins their cluster to do so.

    Raises: LaunchError if they do not suffice for the run.
    """
    if settings.training.precision != "auto":
        return settings
    begun = begun_precision(run_folder)
    if begun is not None:
        return with_precision(settings, begun)
    if settings.scaling.min_workers == 0:
        return with_precision(settings, precision_on(settings.training, choose_device(settings)))
    connect(settings)
    return with_precision(settings, best_on_cluster(settings))


def begun_precision(run_folder: Path) -> Precision | None:
    """What the run in this folder began with; none if there is no run, or it cannot be told."""
    files = [run_folder / SETTINGS_FILE]
    try:
        checkpoint, _ = newest_checkpoint(run_folder)
        if checkpoint is not None:
            files.insert(0, checkpoint / SETTINGS_FILE)
        for file in filter(Path.is_file, files):
            begun = from_json(file.read_text()).training.precision
            if begun != "auto":
                return begun
    except (BtRayError, OSError, ValueError):
        pass  # whoever opens the folder next says what is wrong with it
    return None


def with_precision(settings: Settings, precision: Precision) -> Settings:
    """The settings with this precision."""
    return replace(settings, training=replace(settings.training, precision=precision))
