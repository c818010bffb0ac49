"""A run's record in MLflow: its settings, measures by step, the code's commit, how it ended."""

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException

from bt_ray.config import Settings, flatten
from bt_ray.errors import RunStoppedError, TrackingError
from bt_ray.tracking.mlflow_database import make_tables
from bt_ray.tracking.moved import current_uri, follow_storage
from bt_ray.tracking.revision import git_diff, git_revision
from bt_ray.tracking.tracker import Measures, now_ms

EndState = Literal["FINISHED", "FAILED", "KILLED"]

_log = logging.getLogger(__name__)
_RECORD = "mlflow_run.json"
_HTTP_TRIES, _HTTP_TIMEOUT_S = "2", "20"


@dataclass(frozen=True)
class MlflowRun:
    """One MLflow run; small enough to travel to the worker that logs to it."""

    uri: str
    run_id: str

    def log(self, step: int, measures: Measures, time_ms: int | None = None) -> None:
        """Records measures made after `step` steps, in one request.

        The same measures of the same time are recorded once, however often they are sent.

        Raises: TrackingError if the server does not take them.
        """
        at = now_ms() if time_ms is None else time_ms
        metrics = [Metric(name, value, at, step) for name, value in measures.items()]
        with answering(self.uri) as client:
            client.log_batch(self.run_id, metrics=metrics)

    def tag(self, name: str, value: str) -> None:
        """Notes a fact about the run. Raises: TrackingError."""
        with answering(self.uri) as client:
            client.set_tag(self.run_id, name, value)

    def log_file(self, file: Path, folder: str | None = None) -> None:
        """Stores a file with the run. Raises: TrackingError."""
        with answering(self.uri) as client:
            client.log_artifact(self.run_id, str(file), folder)

    def end(self, state: EndState) -> None:
        """Says how the run ended. Raises: TrackingError."""
        with answering(self.uri) as client:
            client.set_terminated(self.run_id, state)


@contextmanager
def answering(uri: str) -> Iterator[MlflowClient]:
    """A client of the server at `uri`; it gives up after seconds, with a TrackingError."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", _HTTP_TRIES)
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", _HTTP_TIMEOUT_S)
    try:
        make_tables(uri)
        yield MlflowClient(uri)
    except (MlflowException, OSError) as error:
        lines = [line for line in str(error).splitlines() if not line.startswith("(raised as")]
        reason = lines[0][:200] if lines else type(error).__name__
        raise TrackingError(f"MLflow at {uri} does not answer as it should: {reason}") from error


def tracking_uri(storage: str) -> str:
    """The server in MLFLOW_TRACKING_URI, or an SQLite file in the folder of all runs."""
    if given := os.environ.get("MLFLOW_TRACKING_URI"):
        return given
    follow_storage(Path(storage))
    return f"sqlite:///{storage}/mlflow.db"


def start_run(
    settings: Settings, *, known_run_id: str | None = None, parent: MlflowRun | None = None
) -> MlflowRun:
    """The MLflow run of these settings: a new one, or the known one, RUNNING again.

    A run with a parent is recorded on the parent's server, below it.

    Raises: TrackingError if the server does not answer.
    """
    uri = tracking_uri(settings.storage) if parent is None else parent.uri
    with answering(uri) as client:
        if known_run_id is not None and is_there(client, known_run_id):
            client.update_run(known_run_id, status="RUNNING")
            return MlflowRun(uri, known_run_id)
        run = _create_run(uri, settings.name, settings, parent)
        params = [Param(key, str(value)) for key, value in flatten(settings).items()]
        client.log_batch(run.run_id, params=params)
        if diff := git_diff():
            client.log_text(run.run_id, diff, "git_diff.patch")
        return run


def _create_run(uri: str, name: str, settings: Settings, parent: MlflowRun | None) -> MlflowRun:
    tags = {"mlflow.source.git.commit": git_revision()}
    if parent is not None:
        tags["mlflow.parentRunId"] = parent.run_id
    experiment_id = experiment(uri, settings.tracking.experiment, Path(settings.storage))
    run = MlflowClient(uri).create_run(experiment_id, run_name=name, tags=tags)
    return MlflowRun(uri, run.info.run_id)


def experiment(uri: str, name: str, storage: Path) -> str:
    """Id of the experiment of this name, made if need be."""
    client = MlflowClient(uri)
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    location = f"{storage.as_uri()}/mlartifacts" if uri.startswith("sqlite") else None
    tags = {"mlflow.experimentKind": "custom_model_development"}  # which pages the UI shows
    try:
        return str(client.create_experiment(name, artifact_location=location, tags=tags))
    except MlflowException:
        made = client.get_experiment_by_name(name)  # by another run that began just now
        if made is None:
            raise
        return str(made.experiment_id)


def is_there(client: MlflowClient, run_id: str) -> bool:
    """Whether the server has this run, and has not deleted it. Raises: MlflowException."""
    try:
        return bool(client.get_run(run_id).info.lifecycle_stage == "active")
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return False  # the latter of what is no id at all
        raise


def run_of_folder(
    run_folder: Path, settings: Settings, *, parent: MlflowRun | None = None
) -> MlflowRun:
    """The MLflow run that this run's folder names, RUNNING again; or a new one, noted there.

    So a run that is started again stays one MLflow run.

    Raises: TrackingError if the server does not answer.
    """
    known = recorded_run(run_folder)
    run = start_run(settings, known_run_id=None if known is None else known.run_id, parent=parent)
    record_run(run_folder, run)
    return run


def record_run(run_folder: Path, run: MlflowRun) -> None:
    """Notes in a run's folder which MLflow run it is."""
    (run_folder / _RECORD).write_text(json.dumps({"run_id": run.run_id, "uri": run.uri}))


def recorded_run(run_folder: Path) -> MlflowRun | None:
    """The MLflow run of a run's folder; none if nothing was recorded."""
    record = run_folder / _RECORD
    if not record.is_file():
        return None
    tree = json.loads(record.read_text())
    return MlflowRun(current_uri(tree["uri"], tree["run_id"], run_folder), tree["run_id"])


@dataclass
class Ending:
    """How the run ends if nothing is raised."""

    state: EndState = "FINISHED"


@contextmanager
def ending(run: MlflowRun) -> Iterator[Ending]:
    """Records how the run ended: FINISHED, KILLED (it was stopped) or FAILED.

    If the server does not answer then, that is logged, and the run itself ends as it would have.
    """
    end = Ending()
    try:
        yield end
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt | SystemExit | RunStoppedError)
        end.state = "KILLED" if stopped else "FAILED"
        raise
    finally:
        try:
            run.end(end.state)
        except TrackingError as away:
            _log.warning("%s The run stays RUNNING there until the same command is given.", away)
