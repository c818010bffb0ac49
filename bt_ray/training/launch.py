"""From settings to a registered encoder: shards, Ray Train, MLflow, summary."""

import logging
import signal
from collections.abc import Sequence

from ray.train import UserCallback

from bt_ray.checkpoints.best import Which, require_best
from bt_ray.checkpoints.checkpoint import last_checkpoint, replaced_images, stream_digest
from bt_ray.config import Settings, check_pretraining, idle_colours
from bt_ray.config.training import part_rows
from bt_ray.data.location import public_name
from bt_ray.data.preparation.claim import REJECTED
from bt_ray.data.preparation.prepare import prepare_data
from bt_ray.data.preparation.tasks import OnProgress
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.stream.plan import build_plan
from bt_ray.errors import RunFailedError, RunStoppedError, SettingsError, TrackingError
from bt_ray.machine import name_user
from bt_ray.method_presets import fit_to_data
from bt_ray.model.encoder.contract import check_encoder
from bt_ray.storage.names import folder_of, name_of
from bt_ray.tracking.courier import Courier
from bt_ray.tracking.mlflow import MlflowRun, ending
from bt_ray.tracking.mlflow_inputs import record_inputs
from bt_ray.tracking.mlflow_record import run_of_folder
from bt_ray.tracking.mlflow_store import is_shared
from bt_ray.tracking.registry import register_encoder, reserve_name
from bt_ray.tracking.tracker import METRICS, Tracker
from bt_ray.training.arithmetic import choose_precision
from bt_ray.training.assignment import Pretraining
from bt_ray.training.carry_out import carry_out, is_last
from bt_ray.training.cluster import connect
from bt_ray.training.recorder import QUARANTINE
from bt_ray.training.run_folder import claim_folder, locate_storage, open_storage, sole_owner
from bt_ray.training.stop import StopRequest
from bt_ray.training.summary import Progress, Summary, keep, summarize
from bt_ray.training.validation import note_on_validation, prepare_validation

_log = logging.getLogger(__name__)
_NO_REGISTRY = (
    "The encoder is not in a model registry: a storage by URI has none. Name an MLflow server by "
    "MLFLOW_TRACKING_URI, and the same command registers it."
)


def pretrain(
    settings: Settings,
    *,
    register: bool = True,
    which: Which = "last",
    trackers: Sequence[Tracker] = (),
    callbacks: Sequence[UserCallback] = (),
    parent: MlflowRun | None = None,
    on_preparation: OnProgress | None = None,
    stop: StopRequest | None = None,
) -> Summary:
    """Pretrains an encoder, or continues the run of this name where it stopped.

    Args:
      register: add the encoder to the model registry.
      which: of the checkpoints, that is registered.
      trackers: told of every measure, as MLflow is.
      callbacks: told by Ray Train of every report.
      parent: MLflow run that this one belongs to.
      on_preparation: told how many images are prepared, before training starts.
      stop: ends it earlier; signals do so, too.
    Returns: a summary with fewer steps than total_steps if `scaling.max_hours` ended the run.
    Raises: SettingsError if a run of this name exists with other settings; LaunchError if it is
      going already or the cluster is too small; RunFailedError if the cluster gave up;
      RunStoppedError after SIGINT or SIGTERM; TrackingError if MLflow does not answer at the
      start; DataError; UnreadableImagesError; CheckpointError; NonFiniteLossError.
    """
    name_user()
    check_pretraining(settings)
    check_which(which, settings)
    if (idle := idle_colours(settings)) is not None:
        _log.warning(idle)
    if not settings.model.is_built_in:
        check_encoder(settings)
    settings = locate_storage(settings)
    open_storage(settings)
    settings = prepare_validation(prepare_data(settings, on_preparation))
    manifest = ShardSet.open(settings.data.train).manifest
    settings, lowered = fit_to_data(settings, manifest.num_rows)
    if lowered is not None:
        _log.warning(lowered)
    total_steps = settings.schedule.total_steps(build_plan(settings, manifest).steps_per_epoch)
    run_folder = folder_of(settings.storage) / settings.name
    with sole_owner(run_folder):
        settings = choose_precision(settings, run_folder)
        settings = claim_folder(run_folder, settings)
        if settings.scaling.min_workers > 0:
            connect(settings)
        run, notes_on_run = run_of_folder(run_folder, settings, parent=parent)
        if register and not is_shared(run.uri, settings.storage):
            notes_on_run = (*notes_on_run, _NO_REGISTRY)
            register = False
        stop = stop or StopRequest()
        with ending(run) as end:
            run.tag("data_digest", manifest.digest)
            if settings.model.start_sha256 is not None:
                run.tag("start_sha256", settings.model.start_sha256)
            record_inputs(run, settings)
            if register:
                reserve_name(run.uri, settings.registered_model)
            with (
                Courier(run_folder / METRICS, [run, *trackers]) as courier,
                stop.listening(settings.scaling.max_hours),
            ):
                carry_out(Pretraining(settings), total_steps, stop, callbacks)
            notes = [*notes_on_run, *([courier.undelivered] if courier.undelivered else [])]
            checkpoint, steps = last_checkpoint(run_folder)
            is_finished = is_last(checkpoint, steps, total_steps, settings)
            if checkpoint is None or not (is_finished or stop.is_made()):
                raise RunFailedError(
                    f"The run ended after {steps} of {total_steps} steps; the same command "
                    "continues it."
                )
            if not is_finished:
                end.state = "KILLED"
            progress = Progress(checkpoint, steps, total_steps, is_finished)
            chosen = which if register else None
            summary = _conclude(settings, run, progress, chosen, notes)
    if stop.signal_number is not None and not is_finished:
        raise _stopped(stop.signal_number, summary)
    return summary


def _conclude(
    settings: Settings,
    run: MlflowRun,
    progress: Progress,
    which: Which | None,
    notes: list[str],
) -> Summary:
    """The summary of a run that has come so far, once all that it left is recorded.

    Args:
      which: of its checkpoints is registered if it is finished; none: none.
      notes: what a person must know so far; more is added.
    """
    run_folder, checkpoint = folder_of(settings.storage) / settings.name, progress.checkpoint
    found = (note_on_end(settings, progress), note_on_validation(settings), note_on_parts(settings))
    notes += [note for note in found if note is not None]
    notes += notes_on_images(settings)
    if replaced := replaced_images(checkpoint):
        notes.append(
            f"{replaced} times an image could not be decoded, and another stood in for it; "
            f"which ones and why is listed in {name_of(run_folder / QUARANTINE)}."
        )
    version = None
    try:
        run.tag("checkpoint", name_of(checkpoint))
        run.tag("steps", str(progress.steps))
        run.tag("stream_digest", stream_digest(checkpoint))
        if which is not None and progress.is_finished:
            chosen = require_best(run_folder) if which == "best" else checkpoint
            version = register_encoder(run, chosen, settings)
    except TrackingError as away:
        notes.append(f"{away} The encoder is not registered; the same command does that.")
    summary = summarize(settings, run_folder, run, progress, version, notes)
    keep(summary, settings, run_folder, run)
    return summary


def check_which(which: Which, settings: Settings) -> None:
    """Raises SettingsError if a best checkpoint is to be registered, and none will be kept."""
    if which == "best" and not settings.training.selects:
        raise SettingsError(
            "--register best needs a best checkpoint, and none is kept: add --training.keep-best."
        )


def note_on_end(settings: Settings, progress: Progress) -> str | None:
    """A sentence if the run ended before its last step."""
    steps, total_steps = progress.steps, progress.total_steps
    if steps == total_steps:
        return None
    if progress.is_finished:
        return (
            f"The run ended after {steps} of {total_steps} steps: the last "
            f"{settings.training.patience} probes had no better score (training.patience). With "
            "more patience the same command goes on."
        )
    return (
        f"The run was stopped after {steps} of {total_steps} steps; the same command continues it."
    )


def notes_on_images(settings: Settings) -> list[str]:
    """Sentences on images that were left out, or not turned, when the shards were written."""
    notes = []
    for name in ("train", "test"):
        root = getattr(settings.data, name)
        if root is None:
            continue
        manifest = ShardSet.open(root).manifest
        if manifest.note_on_turned:
            notes.append(f"data.{name}: {manifest.note_on_turned}")
        if rejected := manifest.num_rejected:
            images = f"{rejected:,} image{'s' * (rejected > 1)}"
            notes.append(
                f"data.{name} is without {images} that cannot be decoded; which ones and why is"
                f" listed in {public_name(root)}/{REJECTED}."
            )
    return notes


def note_on_parts(settings: Settings) -> str | None:
    """A sentence if the encoder's batch norms did not see the whole batch at once."""
    workers, batch = max(1, settings.scaling.min_workers), settings.data.global_batch
    parts = part_rows(batch // workers, settings.training.micro_batch)
    if len(parts) == 1:
        return None
    return (
        f"The encoder's batch norms used the statistics of {workers * max(parts)} images at a time "
        f"(training.micro_batch={settings.training.micro_batch}), not of all {batch}."
    )


def _stopped(signal_number: int, summary: Summary) -> RunStoppedError:
    error = RunStoppedError(
        f"{signal.Signals(signal_number).name} stopped the run after {summary.steps} of "
        f"{summary.total_steps} steps, saved in {summary.paths['checkpoint']}. The same command "
        "continues it."
    )
    error.signal_number = signal_number
    return error
