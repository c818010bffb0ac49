"""Runs as MLflow records: settings, measures by step, the code's revision, a true end."""

import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from bt_ray.config import Settings, flatten
from bt_ray.tracking.tracker import Measures

EndState = Literal["FINISHED", "FAILED", "KILLED"]


@dataclass(frozen=True)
class MlflowRun:
    """One MLflow run; small enough to travel to the worker that logs to it."""

    uri: str
    run_id: str

    def log(self, step: int, measures: Measures) -> None:
        """Records measures made after `step` steps, in one request."""
        now_ms = int(time.time() * 1000)
        metrics = [Metric(name, value, now_ms, step) for name, value in measures.items()]
        self._client.log_batch(self.run_id, metrics=metrics)

    def log_file(self, file: Path) -> None:
        """Stores a file with the run."""
        self._client.log_artifact(self.run_id, str(file))

    def end(self, state: EndState) -> None:
        """Says how the run ended."""
        self._client.set_terminated(self.run_id, state)

    @property
    def _client(self) -> MlflowClient:
        return MlflowClient(self.uri)


def tracking_uri(storage: Path) -> str:
    """The server in MLFLOW_TRACKING_URI, or an SQLite file in the folder of all runs."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{storage}/mlflow.db"


def start_run(
    settings: Settings, *, storage: Path, known_run_id: str | None, parent_run_id: str | None
) -> MlflowRun:
    """The MLflow run of these settings: a new one, or the known one set going again."""
    uri = tracking_uri(storage)
    client = MlflowClient(uri)
    if known_run_id is not None:
        try:
            client.update_run(known_run_id, status="RUNNING")
            return MlflowRun(uri, known_run_id)
        except MlflowException:
            pass  # recorded on another server, or deleted there: record it anew
    tags = {"mlflow.source.git.commit": git_revision(), "mlflow.note.content": "Barlow Twins"}
    if parent_run_id is not None:
        tags["mlflow.parentRunId"] = parent_run_id
    run = client.create_run(
        experiment(settings.tracking.experiment, storage), run_name=settings.name, tags=tags
    )
    params = [Param(key, str(value)) for key, value in flatten(settings).items()]
    client.log_batch(run.info.run_id, params=params, tags=[RunTag("mlflow.runName", settings.name)])
    return MlflowRun(uri, run.info.run_id)


def start_parent_run(name: str, *, experiment_name: str, storage: Path) -> MlflowRun:
    """A run that others, such as a sweep's trials, are children of."""
    uri = tracking_uri(storage)
    run = MlflowClient(uri).create_run(
        experiment(experiment_name, storage),
        run_name=name,
        tags={"mlflow.source.git.commit": git_revision()},
    )
    return MlflowRun(uri, run.info.run_id)


def experiment(name: str, storage: Path) -> str:
    """Id of the experiment of this name, made if need be."""
    uri = tracking_uri(storage)
    client = MlflowClient(uri)
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    location = f"{storage.as_uri()}/mlartifacts" if uri.startswith("sqlite") else None
    return str(client.create_experiment(name, artifact_location=location))


def git_revision() -> str:
    """The commit of the code that runs, `-dirty` if files differ from it, or `unknown`."""
    folder = Path(__file__).parent
    try:
        shown = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return shown.stdout.strip()
