"""From settings to a registered encoder: shards, Ray Train, MLflow, summary."""

import signal
from collections.abc import Sequence
from pathlib import Path

from ray.train import UserCallback

from bt_ray.checkpoints.checkpoint import last_checkpoint, replaced_images, stream_digest
from bt_ray.config import Settings, check_pretraining, to_json
from bt_ray.data.preparation.prepare import prepare_data
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.stream.plan import build_plan
from bt_ray.errors import RunFailedError, RunStoppedError, TrackingError
from bt_ray.tracking.courier import Courier
from bt_ray.tracking.mlflow import MlflowRun, ending, run_of_folder
from bt_ray.tracking.registry import register_encoder
from bt_ray.tracking.tracker import METRICS, Tracker
from bt_ray.training.cluster import connect
from bt_ray.training.fit import fit
from bt_ray.training.local import train_here
from bt_ray.training.quarantine import QUARANTINE
from bt_ray.training.run_folder import claim_folder, locate_storage, open_storage, sole_owner
from bt_ray.training.stop import StopRequest
from bt_ray.training.summary import Summary, keep, summarize
from bt_ray.training.worker import train_worker


def pretrain(
    settings: Settings,
    *,
    register: bool = True,
    trackers: Sequence[Tracker] = (),
    callbacks: Sequence[UserCallback] = (),
    parent: MlflowRun | None = None,
) -> Summary:
    """Pretrains an encoder, or continues the run of this name where it stopped.

    Args:
      register: add the encoder to the model registry.
      trackers: told of every measure, as MLflow is.
      callbacks: told by Ray Train of every report.
      parent: MLflow run that this one belongs to.
    Returns: a summary with fewer steps than total_steps if `scaling.max_hours` ended the run.
    Raises: SettingsError if a run of this name exists with other settings; LaunchError if it is
      going already or the cluster is too small; RunFailedError if the cluster gave up;
      RunStoppedError after SIGINT or SIGTERM; TrackingError if MLflow does not answer at the
      start; DataError; UnreadableImagesError; CheckpointError; NonFiniteLossError.
    """
    check_pretraining(settings)
    settings = locate_storage(settings)
    open_storage(settings)
    settings = prepare_data(settings)
    manifest = ShardSet.open(settings.data.train).manifest
    total_steps = build_plan(settings, manifest).steps_per_epoch * settings.schedule.epochs
    run_folder = Path(settings.storage) / settings.name
    with sole_owner(run_folder):
        claim_folder(run_folder, settings)
        if settings.scaling.workers > 0:
            connect(settings)
        run = run_of_folder(run_folder, settings, parent=parent)
        stop = StopRequest(run_folder)
        with ending(run) as end:
            run.tag("data_digest", manifest.digest)
            with (
                Courier(run_folder / METRICS, [run, *trackers]) as courier,
                stop.listening(settings.scaling.max_hours),
            ):
                _fit(settings, run_folder, total_steps, callbacks)
            checkpoint, steps = last_checkpoint(run_folder)
            if checkpoint is None or (steps < total_steps and not stop.was_made):
                raise RunFailedError(
                    f"The run ended after {steps} of {total_steps} steps; the same command "
                    "continues it."
                )
            notes = [courier.undelivered] if courier.undelivered else []
            if steps < total_steps:
                end.state = "KILLED"
                notes.append(
                    f"The run was stopped after {steps} of {total_steps} steps; the same command "
                    "continues it."
                )
            if replaced := replaced_images(checkpoint):
                notes.append(
                    f"{replaced} times an image could not be decoded, and another stood in for it; "
                    f"which ones and why is listed in {run_folder / QUARANTINE}."
                )
            version = None
            try:
                run.tag("checkpoint", str(checkpoint))
                run.tag("stream_digest", stream_digest(checkpoint))
                if register and steps == total_steps:
                    version = register_encoder(run, checkpoint, settings)
            except TrackingError as away:
                notes.append(f"{away} The encoder is not registered; the same command does that.")
            summary = summarize(
                settings, run_folder, run, checkpoint, steps, total_steps, version, notes
            )
            keep(summary, settings, run_folder, run)
    if stop.signal_number is not None and steps < total_steps:
        raise _stopped(stop.signal_number, summary)
    return summary


def _stopped(signal_number: int, summary: Summary) -> RunStoppedError:
    error = RunStoppedError(
        f"{signal.Signals(signal_number).name} stopped the run after {summary.steps} of "
        f"{summary.total_steps} steps, saved in {summary.paths['checkpoint']}. The same command "
        "continues it."
    )
    error.signal_number = signal_number
    return error


def _fit(
    settings: Settings, run_folder: Path, total_steps: int, callbacks: Sequence[UserCallback]
) -> None:
    if last_checkpoint(run_folder)[1] == total_steps:
        return
    if settings.scaling.workers == 0:
        train_here(settings, run_folder, total_steps)
        return
    order = {"settings": to_json(settings), "run_folder": str(run_folder)}
    fit(train_worker, order, settings, run_folder, total_steps, callbacks)
