"""An assignment carried out: in this process or by Ray Train, from where it stopped."""

from collections.abc import Sequence
from pathlib import Path

from ray.train import UserCallback

from bt_ray.checkpoints.checkpoint import (
    last_checkpoint,
    newest_checkpoint,
    probes_since_best,
)
from bt_ray.config import Settings
from bt_ray.training.assignment import Assignment
from bt_ray.training.cluster import connect
from bt_ray.training.fit import fit
from bt_ray.training.local import train_here
from bt_ray.training.stop import StopRequest


def carry_out(
    assignment: Assignment,
    total_steps: int,
    stop: StopRequest,
    callbacks: Sequence[UserCallback] = (),
) -> None:
    """Trains to step `total_steps`, or until a stop is asked for; nothing if the run is over.

    Args:
      callbacks: told by Ray Train of every report.
    Raises: what `training.fit.fit` and `training.local.train_here` raise; LaunchError if the
      cluster is too small.
    """
    if is_done(assignment.run_folder, total_steps, assignment.settings):
        return
    if assignment.settings.scaling.min_workers == 0:
        train_here(assignment, total_steps, stop)
        return
    connect(assignment.settings)
    fit(assignment, total_steps, stop, callbacks)


def is_done(run_folder: Path, total_steps: int, settings: Settings) -> bool:
    """Whether the run has come to its last step, or the end of its patience, and that is whole."""
    if not is_last(*newest_checkpoint(run_folder), total_steps, settings):
        return False
    return is_last(*last_checkpoint(run_folder), total_steps, settings)


def is_last(checkpoint: Path | None, steps: int, total_steps: int, settings: Settings) -> bool:
    """Whether a checkpoint, of so many steps, is one that the run does not go on from."""
    patience = settings.training.patience
    if steps == total_steps or checkpoint is None:
        return steps == total_steps
    return patience is not None and probes_since_best(checkpoint) >= patience
