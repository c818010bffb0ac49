"""An assignment brought to its last step, from where it stopped, and what was measured on the way.

Classifiers and detectors are trained so; pretraining has records of its own (`training.launch`).
"""

import hashlib
import json
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from bt_ray.checkpoints.checkpoint import last_checkpoint
from bt_ray.config import ScalingSettings, Settings, to_json
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.stream.plan import build_plan
from bt_ray.errors import RunFailedError, RunStoppedError
from bt_ray.model.weights import fingerprint
from bt_ray.tracking.courier import Courier
from bt_ray.tracking.tracker import METRICS, Tracker, read_history
from bt_ray.training.assignment import Assignment
from bt_ray.training.carry_out import carry_out
from bt_ray.training.run_folder import sole_owner
from bt_ray.training.stop import StopRequest


@dataclass(frozen=True, kw_only=True)
class Completed:
    """A training that came to its last step.

    `history`: metric name → step → value. `metrics`: the file that it was read from.
    """

    steps: int
    checkpoint: Path
    history: Mapping[str, Mapping[int, float]]
    metrics: Path

    @property
    def scores(self) -> dict[str, float]:
        """What was measured on test images after the last step, by name without `test/`."""
        return {
            name.removeprefix("test/"): points[self.steps]
            for name, points in self.history.items()
            if name.startswith("test/")
        }

    @property
    def images_per_s(self) -> float:
        """The last speed that was measured."""
        return list(self.history["time/images_per_s"].values())[-1]


def name_by_content(
    settings: Settings, protocol: Mapping[str, Any], encoder: nn.Module, data: Sequence[str]
) -> Settings:
    """The settings with a name that ends in a digest of all that shapes the result.

    Where the folder and the images are, and how many workers there are, is no part of it.

    Args:
      protocol: what is trained, beside the settings, as JSON takes it.
      encoder: with its first weights.
      data: what tells the content of the images, of each set of them.
    """
    nowhere = replace(settings.data, train="", test=None)
    facts = {
        "settings": to_json(replace(settings, storage="", data=nowhere, scaling=ScalingSettings())),
        "protocol": protocol,
        "encoder": fingerprint(encoder),
        "data": list(data),
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
    return replace(settings, name=f"{settings.name}-{digest}")


def complete(
    assignment: Assignment,
    what: str,
    *,
    keep_start: Callable[[], None],
    trackers: Sequence[Tracker] = (),
) -> Completed:
    """Trains to the last step, or goes on to, in this process or by Ray Train.

    Args:
      what: people call it, such as `classifier`.
      keep_start: writes what every worker starts from, once the folder is this process's own.
      trackers: told of every measure.
    Raises: LaunchError if it is going already or the cluster is too small; RunFailedError;
      RunStoppedError after SIGINT or SIGTERM; UnreadableImagesError; NonFiniteLossError.
    """
    settings, folder = assignment.settings, assignment.run_folder
    manifest = ShardSet.open(settings.data.train).manifest
    total_steps = settings.schedule.total_steps(build_plan(settings, manifest).steps_per_epoch)
    with sole_owner(folder):
        keep_start()
        stop = StopRequest()
        with Courier(folder / METRICS, trackers), stop.listening(None):
            carry_out(assignment, total_steps, stop)
        checkpoint, steps = last_checkpoint(folder)
    if stop.signal_number is not None and steps < total_steps:
        raise _stopped(what, stop.signal_number, steps, total_steps)
    if checkpoint is None or steps < total_steps:
        raise RunFailedError(
            f"The {what}'s training ended after {steps} of {total_steps} steps; the same command "
            "continues it."
        )
    return Completed(
        steps=steps,
        checkpoint=checkpoint,
        history=read_history(folder / METRICS),
        metrics=folder / METRICS,
    )


def _stopped(what: str, signal_number: int, steps: int, total_steps: int) -> RunStoppedError:
    error = RunStoppedError(
        f"{signal.Signals(signal_number).name} stopped the {what}'s training after {steps} of "
        f"{total_steps} steps, which are saved. The same command continues it."
    )
    error.signal_number = signal_number
    return error
