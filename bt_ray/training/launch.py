"""From settings to a registered encoder: shards, Ray Train, MLflow, summary."""

import json
import logging
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import ray
import ray.data
import ray.train
from ray.exceptions import ActorDiedError
from ray.train import (
    CheckpointConfig,
    DataConfig,
    FailureConfig,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
)
from ray.train.torch import TorchTrainer
from ray.train.v2.api.callback import UserCallback

from bt_ray.config import Settings, from_json, to_json
from bt_ray.data.ingest import build_dataset
from bt_ray.data.plan import build_plan
from bt_ray.data.shards import ShardSet, is_shards, write_shards
from bt_ray.data.sources import open_source
from bt_ray.errors import DataError, LaunchError, NonFiniteLossError, SettingsError
from bt_ray.figures.curves import draw_curves
from bt_ray.tracking.courier import Courier
from bt_ray.tracking.mlflow import MlflowRun, start_run
from bt_ray.tracking.registry import register_encoder
from bt_ray.tracking.tracker import METRICS, Tracker, read_history
from bt_ray.training.local import train_here
from bt_ray.training.state import KEPT_CHECKPOINTS, last_checkpoint
from bt_ray.training.worker import FAILURE, train_worker

_TRAIN, _RECORD = "train", "mlflow_run.json"
_DATA_CPUS = 1.0
_STARTS_WAITED_FOR = 10  # of a minute each, for resources that a lost node took along


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a finished run came to."""

    run_id: str
    steps: int
    images_per_s: float
    scores: dict[str, float | None]
    model_version: str | None
    paths: dict[str, str]


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
    Raises: SettingsError if a run of this name exists with other settings; LaunchError if the
      cluster is too small, or gave up; DataError; NonFiniteLossError.
    """
    settings = prepare_data(locate_storage(settings))
    manifest = ShardSet.open(settings.data.train).manifest
    total_steps = build_plan(settings, manifest).steps_per_epoch * settings.schedule.epochs
    run_folder = Path(settings.storage) / settings.name
    claim_folder(run_folder, settings)
    if settings.scaling.workers > 0:
        connect(settings)
    run = _mlflow_run(run_folder, settings, parent)
    with ending(run):
        with Courier(run_folder / METRICS, [run, *trackers]):
            _fit(settings, run_folder, total_steps, callbacks)
        checkpoint, steps = last_checkpoint(run_folder)
        if checkpoint is None or steps < total_steps:
            raise LaunchError(
                f"The run ended after {steps} of {total_steps} steps; the same command "
                "continues it."
            )
        version = register_encoder(run, checkpoint, settings) if register else None
        summary = _summarize(settings, run_folder, run, checkpoint, steps, version)
        _keep(summary, settings, run_folder, run)
    return summary


def locate_storage(settings: Settings) -> Settings:
    """The settings with `storage` as an absolute path.

    Raises: SettingsError for a URI.
    """
    if "://" in settings.storage:
        raise SettingsError(
            f"storage={settings.storage} must be a folder that every node reaches; "
            "object storage serves for data.train and data.test only."
        )
    return replace(settings, storage=str(Path(settings.storage).expanduser().resolve()))


def prepare_data(settings: Settings) -> Settings:
    """The settings with `data.train` and `data.test` naming shards, written if need be.

    Raises: DataError if both are labelled, with different classes.
    """
    train = _shards_of(settings.data.train, settings)
    if settings.data.test is None:
        return replace(settings, data=replace(settings.data, train=train))
    test = _shards_of(settings.data.test, settings)
    classes = [ShardSet.open(root).manifest.classes for root in (train, test)]
    if all(classes) and classes[0] != classes[1]:
        odd = sorted(set(classes[0]) ^ set(classes[1]))
        raise DataError(
            f"data.train and data.test must have the same classes; only one of them has "
            f"{', '.join(odd[:5])}{' …' if len(odd) > 5 else ''}."
        )
    return replace(settings, data=replace(settings.data, train=train, test=test))


def _shards_of(source_name: str, settings: Settings) -> str:
    if is_shards(source_name):
        is_uri = "://" in source_name
        return source_name if is_uri else str(Path(source_name).expanduser().resolve())
    source = open_source(source_name)
    rows = settings.data.rows_per_row_group
    root = Path(settings.storage) / "shards" / f"{source.identity}-{rows}"
    if is_shards(str(root)):
        return str(root)
    root.parent.mkdir(parents=True, exist_ok=True)
    # Written beside and renamed when whole: what was cut short is never taken for shards.
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=root.parent) as folder:
        write_shards(source, f"{folder}/shards", rows_per_row_group=rows)
        if not is_shards(str(root)):
            Path(folder, "shards").rename(root)
    return str(root)


def claim_folder(run_folder: Path, settings: Settings) -> None:
    """Makes the run's folder, or makes sure that the one there belongs to the same run.

    Workers and tracking may differ between two goes at one run; what shapes the result may not.
    """
    file = run_folder / "settings.json"
    if file.is_file():
        theirs = from_json(file.read_text())
        same_place = replace(theirs, scaling=settings.scaling, tracking=settings.tracking)
        if same_place != settings:
            raise SettingsError(
                f"There is a run {settings.name!r} in {run_folder.parent} with other settings; "
                "give this one another --name, or repeat those settings to continue it."
            )
    run_folder.mkdir(parents=True, exist_ok=True)
    file.write_text(to_json(settings))


def connect(settings: Settings, *, extra_cpus: float = 0.0) -> None:
    """Joins the Ray cluster, or starts one here, and sees that the run fits in.

    Args:
      extra_cpus: logical CPUs that are taken beside the run's own.
    Raises: LaunchError if a worker would get no GPU, or if nothing would be left for Ray Data
      beside the workers: Ray would wait for it in silence.
    """
    needed = cpus_needed(settings) + extra_cpus
    if not ray.is_initialized():
        is_local = "RAY_ADDRESS" not in os.environ and "RAY_JOB_ID" not in os.environ
        num_cpus = max(os.cpu_count() or 1, math.ceil(needed)) if is_local else None
        ray.init(
            num_cpus=num_cpus,
            log_to_driver=False,
            logging_level=logging.WARNING,
            address="local" if is_local else None,
        )
    workers, available = settings.scaling.workers, ray.cluster_resources()
    if needed > available.get("CPU", 0):
        raise LaunchError(
            f"scaling.workers={workers} × scaling.cpus_per_worker="
            f"{settings.scaling.cpus_per_worker} and {_DATA_CPUS:g} CPU for reading data make "
            f"{needed:g} CPUs; the cluster has {available.get('CPU', 0):g}. Use fewer workers or "
            "fewer CPUs each."
        )
    if uses_gpu(settings) and workers > available.get("GPU", 0):
        raise LaunchError(
            f"scaling.workers={workers} need a GPU each; the cluster has "
            f"{available.get('GPU', 0):g}. Use fewer workers, or scaling.accelerator=cpu."
        )


def cpus_needed(settings: Settings) -> float:
    """Logical CPUs of a run: its workers', and what decoding needs at least."""
    return settings.scaling.workers * settings.scaling.cpus_per_worker + _DATA_CPUS


@contextmanager
def ending(run: MlflowRun) -> Iterator[None]:
    """Says truthfully how an MLflow run ended: FINISHED, KILLED (a signal) or FAILED."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        run.end("KILLED")
        raise
    except BaseException:
        run.end("FAILED")
        raise
    run.end("FINISHED")


def _mlflow_run(run_folder: Path, settings: Settings, parent: MlflowRun | None) -> MlflowRun:
    record = run_folder / _RECORD
    known = json.loads(record.read_text())["run_id"] if record.is_file() else None
    run = start_run(settings, known_run_id=known, parent=parent)
    record.write_text(json.dumps({"run_id": run.run_id, "uri": run.uri}))
    return run


def _fit(
    settings: Settings, run_folder: Path, total_steps: int, callbacks: Sequence[UserCallback]
) -> None:
    if last_checkpoint(run_folder)[1] == total_steps:
        return
    if settings.scaling.workers == 0:
        train_here(settings, run_folder, total_steps)
        return
    failure = run_folder / FAILURE
    failure.unlink(missing_ok=True)
    for attempts_left in range(settings.scaling.max_failures, -1, -1):
        try:
            _trainer(settings, run_folder, total_steps, callbacks).fit()
            break
        except ActorDiedError as error:  # Ray Train's controller, which Ray does not replace
            if not attempts_left:
                raise LaunchError(f"Ray Train's controller died too often: {error}") from error
        except TrainingFailedError as error:
            raise LaunchError(f"Ray Train gave up on the run: {error}") from error
    if failure.is_file():
        raise NonFiniteLossError(json.loads(failure.read_text())["message"])


def _trainer(
    settings: Settings, run_folder: Path, total_steps: int, callbacks: Sequence[UserCallback]
) -> TorchTrainer:
    return TorchTrainer(
        train_worker,
        train_loop_config={"settings": to_json(settings), "run_folder": str(run_folder)},
        scaling_config=ScalingConfig(
            num_workers=settings.scaling.workers,
            use_gpu=uses_gpu(settings),
            resources_per_worker={"CPU": settings.scaling.cpus_per_worker},
        ),
        run_config=RunConfig(
            name=_TRAIN,
            storage_path=str(run_folder),
            failure_config=FailureConfig(
                max_failures=settings.scaling.max_failures,
                controller_failure_limit=_STARTS_WAITED_FOR,  # type: ignore[call-arg]
            ),
            checkpoint_config=CheckpointConfig(num_to_keep=KEPT_CHECKPOINTS),
            callbacks=list(callbacks),  # type: ignore[arg-type]
        ),
        datasets={"train": partial(_remaining_dataset, settings, run_folder, total_steps)},
        # In order and in turn, nothing by locality: a block belongs to one worker.
        dataset_config=DataConfig(
            execution_options=ray.data.ExecutionOptions(preserve_order=True),
            enable_shard_locality=False,
        ),
    )


def _remaining_dataset(settings: Settings, run_folder: Path, total_steps: int) -> ray.data.Dataset:
    """Called whenever workers are (re)started: what the last checkpoint leaves to be done."""
    _, start = last_checkpoint(run_folder)
    return build_dataset(settings, start=start, stop=total_steps)


def uses_gpu(settings: Settings) -> bool:
    """Whether workers get a GPU each."""
    if settings.scaling.accelerator != "auto":
        return settings.scaling.accelerator == "gpu"
    num_gpus: float = ray.cluster_resources().get("GPU", 0)
    return num_gpus >= max(1, settings.scaling.workers)


def _keep(summary: Summary, settings: Settings, run_folder: Path, run: MlflowRun) -> None:
    """Stores the summary and the curves in the run's folder and with its MLflow run."""
    file = run_folder / "summary.json"
    file.write_text(json.dumps(asdict(summary), indent=2))
    figure = Path(summary.paths["curves"])
    draw_curves(
        read_history(run_folder / METRICS),
        redundancy_weight=settings.objective.redundancy_weight,
        title=settings.name,
        file=figure,
    )
    for kept in (file, figure, run_folder / "settings.json"):
        run.log_file(kept)


def _summarize(
    settings: Settings,
    run_folder: Path,
    run: MlflowRun,
    checkpoint: Path,
    steps: int,
    version: str | None,
) -> Summary:
    history = read_history(run_folder / METRICS)
    steps_timed = [0, *history["time/step_s"]]
    seconds = sum(
        (after - before) * history["time/step_s"][after] for before, after in pairwise(steps_timed)
    )
    knn = list(history.get("knn/top1", {}).values())
    return Summary(
        run_id=run.run_id,
        steps=steps,
        images_per_s=round(settings.data.global_batch * steps / seconds, 1),
        scores={
            "knn_top1_untrained": knn[0] if knn else None,
            "knn_top1": knn[-1] if knn else None,
            "rankme": list(history["probe/rankme"].values())[-1],
            "loss": list(history["train/loss"].values())[-1],
        },
        model_version=None if version is None else f"{settings.registered_model}/{version}",
        paths={
            "run": str(run_folder),
            "checkpoint": str(checkpoint),
            "metrics": str(run_folder / METRICS),
            "curves": str(run_folder / "curves.png"),
            "mlflow": run.uri,
        },
    )
