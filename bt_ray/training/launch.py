"""From settings to a registered encoder: shards, Ray Train, MLflow, summary."""

import json
import logging
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.data
import ray.train
from ray.train import (
    CheckpointConfig,
    DataConfig,
    FailureConfig,
    RunConfig,
    ScalingConfig,
)
from ray.train.torch import TorchTrainer
from ray.train.v2.api.callback import UserCallback

from bt_ray.config import Settings, from_json, to_json
from bt_ray.data.ingest import build_dataset
from bt_ray.data.plan import build_plan
from bt_ray.data.shards import ShardSet, is_shards, write_shards
from bt_ray.data.sources import open_source
from bt_ray.errors import LaunchError, NonFiniteLossError, SettingsError
from bt_ray.figures.curves import draw_curves
from bt_ray.model.encoder import build_encoder
from bt_ray.tracking.courier import Courier
from bt_ray.tracking.mlflow import MlflowRun, start_run
from bt_ray.tracking.registry import register_encoder
from bt_ray.tracking.tracker import METRICS, Tracker, read_history
from bt_ray.training.local import train_here
from bt_ray.training.state import last_checkpoint
from bt_ray.training.worker import FAILURE, Job, job_config, train_worker

_TRAIN, _RECORD = "train", "mlflow_run.json"
_KEPT_CHECKPOINTS = 2
_DATA_CPUS = 1.0


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
    parent_run_id: str | None = None,
) -> Summary:
    """Pretrains an encoder, or continues the run of this name where it stopped.

    Args:
      register: add the encoder to the model registry.
      trackers: told of every measure, as MLflow is.
      callbacks: told by Ray Train of every report.
      parent_run_id: MLflow run that this one belongs to.
    Raises: SettingsError if a run of this name exists with other settings; LaunchError if the
      cluster is too small; NonFiniteLossError.
    """
    storage = Path(settings.storage).expanduser().resolve()
    settings = prepare_data(replace(settings, storage=str(storage)))
    run_folder = storage / settings.name
    claim_folder(run_folder, settings)
    if settings.scaling.workers > 0:
        connect(settings)
    run = _mlflow_run(run_folder, settings, storage, parent_run_id)
    manifest = ShardSet.open(settings.data.train).manifest
    total_steps = build_plan(settings, manifest).steps_per_epoch * settings.schedule.epochs
    try:
        with Courier(run_folder / METRICS, [run, *trackers]):
            _fit(settings, run_folder, total_steps, callbacks)
        checkpoint, steps = last_checkpoint(run_folder)
        if checkpoint is None or steps < total_steps:
            raise LaunchError(
                f"The run ended after {steps} of {total_steps} steps; the same command continues it."
            )
        version = None
        if register:
            num_features = int(build_encoder(settings.model).num_features)  # type: ignore[arg-type]
            version = register_encoder(run, checkpoint, settings, num_features=num_features)
    except KeyboardInterrupt:
        run.end("KILLED")
        raise
    except BaseException:
        run.end("FAILED")
        raise
    summary = _summarize(settings, run_folder, run, checkpoint, steps, version)
    _keep(summary, settings, run_folder, run)
    run.end("FINISHED")
    return summary


def prepare_data(settings: Settings) -> Settings:
    """The settings with `data.train` and `data.test` naming shards, written if need be."""
    data = settings.data
    made: dict[str, Any] = {
        name: _shards_of(source, settings)
        for name, source in (("train", data.train), ("test", data.test))
        if source is not None
    }
    return replace(settings, data=replace(data, **made))


def _shards_of(source_name: str, settings: Settings) -> str:
    if is_shards(source_name):
        return source_name if "://" in source_name else str(Path(source_name).resolve())
    source = open_source(source_name)
    rows = settings.data.rows_per_row_group
    root = Path(settings.storage) / "shards" / f"{source.identity}-{rows}"
    if not is_shards(str(root)):
        # Written beside and renamed when whole, so that a killed preparation leaves no trace.
        partial_root = root.with_name(f".{root.name}-{os.getpid()}")
        write_shards(source, str(partial_root), rows_per_row_group=rows)
        partial_root.rename(root)
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


def connect(settings: Settings) -> None:
    """Joins the Ray cluster, or starts one here, and sees that the run fits in.

    Raises: LaunchError if nothing would be left for Ray Data beside the workers: Ray would
      wait for it in silence.
    """
    needed = cpus_needed(settings)
    if not ray.is_initialized():
        is_local = "RAY_ADDRESS" not in os.environ and "RAY_JOB_ID" not in os.environ
        num_cpus = max(os.cpu_count() or 1, math.ceil(needed)) if is_local else None
        ray.init(num_cpus=num_cpus, log_to_driver=False, logging_level=logging.WARNING,
                 address="local" if is_local else None)  # fmt: skip
    available = ray.cluster_resources().get("CPU", 0)
    if needed > available:
        raise LaunchError(
            f"scaling.workers={settings.scaling.workers} × scaling.cpus_per_worker="
            f"{settings.scaling.cpus_per_worker} and {_DATA_CPUS:g} CPU for reading data make "
            f"{needed:g} CPUs; the cluster has {available:g}. Use fewer workers or fewer CPUs each."
        )


def cpus_needed(settings: Settings) -> float:
    """Logical CPUs of a run: its workers', and what reading and decoding needs at least."""
    return settings.scaling.workers * settings.scaling.cpus_per_worker + _DATA_CPUS


def _mlflow_run(
    run_folder: Path, settings: Settings, storage: Path, parent_run_id: str | None
) -> MlflowRun:
    record = run_folder / _RECORD
    known = json.loads(record.read_text())["run_id"] if record.is_file() else None
    run = start_run(settings, storage=storage, known_run_id=known, parent_run_id=parent_run_id)
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
    job = Job(
        settings=to_json(settings),
        run_folder=str(run_folder),
    )
    TorchTrainer(
        train_worker,
        train_loop_config=job_config(job),
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
                controller_failure_limit=3,  # type: ignore[call-arg]
            ),
            checkpoint_config=CheckpointConfig(num_to_keep=_KEPT_CHECKPOINTS),
            callbacks=list(callbacks),  # type: ignore[arg-type]
        ),
        datasets={"train": partial(_remaining_dataset, settings, run_folder, total_steps)},
        # In order and in turn, nothing by locality: a block belongs to one worker.
        dataset_config=DataConfig(
            execution_options=ray.data.ExecutionOptions(preserve_order=True),
            enable_shard_locality=False,
        ),
    ).fit()
    if failure.is_file():
        raise NonFiniteLossError(json.loads(failure.read_text())["message"])


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
    step_s = list(history["time/step_s"].values())
    knn = list(history.get("knn/top1", {}).values())
    return Summary(
        run_id=run.run_id,
        steps=steps,
        images_per_s=round(settings.data.global_batch * len(step_s) / sum(step_s), 1),
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
