"""Runs as MLflow records: settings, measures by step, the code's revision, a true end."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException

from bt_ray.config import Settings, flatten
from bt_ray.errors import TrackingError
from bt_ray.tracking.tracker import Measures

EndState = Literal["FINISHED", "FAILED", "KILLED"]


@dataclass(frozen=True)
class MlflowRun:
    """One MLflow run; small enough to travel to the worker that logs to it."""

    uri: str
    run_id: str

    def log(self, step: int, measures: Measures) -> None:
        """Records measures made after `step` steps, in one request.

        Raises: TrackingError if the server does not take them.
        """
        now_ms = int(time.time() * 1000)
        metrics = [Metric(name, value, now_ms, step) for name, value in measures.items()]
        try:
            self._client.log_batch(self.run_id, metrics=metrics)
        except MlflowException as error:
            raise TrackingError(f"{self.uri} did not take the measures: {error}") from error

    def tag(self, name: str, value: str) -> None:
        """Notes a fact about the run."""
        self._client.set_tag(self.run_id, name, value)

    def log_file(self, file: Path) -> None:
        """Stores a file with the run."""
        self._client.log_artifact(self.run_id, str(file))

    def end(self, state: EndState) -> None:
        """Says how the run ended."""
        self._client.set_terminated(self.run_id, state)

    @property
    def _client(self) -> MlflowClient:
        return MlflowClient(self.uri)


def tracking_uri(storage: str) -> str:
    """The server in MLFLOW_TRACKING_URI, or an SQLite file in the folder of all runs."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{storage}/mlflow.db"


def start_run(
    settings: Settings, *, known_run_id: str | None = None, parent: MlflowRun | None = None
) -> MlflowRun:
    """The MLflow run of these settings: a new one, or the known one set going again.

    A child is recorded where its parent is.
    """
    uri = tracking_uri(settings.storage) if parent is None else parent.uri
    client = MlflowClient(uri)
    if known_run_id is not None:
        try:
            client.update_run(known_run_id, status="RUNNING")
            return MlflowRun(uri, known_run_id)
        except MlflowException:
            pass  # recorded on another server, or deleted there: record it anew
    run = _create_run(uri, settings.name, settings, parent)
    params = [Param(key, str(value)) for key, value in flatten(settings).items()]
    client.log_batch(run.run_id, params=params)
    return run


def start_parent_run(name: str, settings: Settings) -> MlflowRun:
    """A run that others, such as a sweep's trials, are children of."""
    return _create_run(tracking_uri(settings.storage), name, settings, None)


def _create_run(uri: str, name: str, settings: Settings, parent: MlflowRun | None) -> MlflowRun:
    tags = {"mlflow.source.git.commit": git_revision()}
    if parent is not None:
        tags["mlflow.parentRunId"] = parent.run_id
    experiment_id = experiment(uri, settings.tracking.experiment, Path(settings.storage))
    run = MlflowClient(uri).create_run(experiment_id, run_name=name, tags=tags)
    return MlflowRun(uri, run.info.run_id)


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


def experiment(uri: str, name: str, storage: Path) -> str:
    """Id of the experiment of this name, made if need be."""
    client = MlflowClient(uri)
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    location = f"{storage.as_uri()}/mlartifacts" if uri.startswith("sqlite") else None
    return str(client.create_experiment(name, artifact_location=location))


def git_revision() -> str:
    """The commit of the code that runs, `-dirty` if files differ from it, or `unknown`.

    A Ray job's copy of the code has no history: BT_RAY_REVISION says it there.
    """
    told = os.environ.get("BT_RAY_REVISION")
    if told:
        return told
    try:
        shown = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return shown.stdout.strip()
