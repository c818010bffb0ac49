"""A run's record in MLflow: its settings, measures by step, the code's commit, how it ended."""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException

from bt_ray.config import SETTINGS_FILE, Settings, in_use, to_json
from bt_ray.errors import BtRayError, RunStoppedError, TrackingError
from bt_ray.redaction import redact, without_credentials
from bt_ray.tracking.mlflow_database import make_tables
from bt_ray.tracking.mlflow_store import (
    ARTIFACTS,
    database_file,
    follow_moved_artifacts,
    tracking_uri,
)
from bt_ray.tracking.revision import git_diff, git_revision
from bt_ray.tracking.tracker import Measures, now_ms

EndState = Literal["FINISHED", "FAILED", "KILLED"]

_log = logging.getLogger(__name__)
_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # it would print the password
}


@dataclass(frozen=True)
class MlflowRun:
    """One MLflow run; small enough to travel to the worker that logs to it."""

    uri: str = field(repr=False)
    """Of the server; it may hold a password, and is neither shown nor written."""
    run_id: str

    @property
    def public_uri(self) -> str:
        """Of the server, without a password."""
        return without_credentials(self.uri)

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
            client.set_tag(self.run_id, name, redact(value))

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
    """A client of the server at `uri`; it gives up after seconds.

    Raises: TrackingError in place of whatever MLflow, its database or its artifact store raises.
    """
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    try:
        make_tables(uri)
        follow_moved_artifacts(uri)
        yield MlflowClient(uri)
    except BtRayError:
        raise
    except Exception as error:  # stores and databases have errors of their own, of no common kind
        server = f"MLflow at {without_credentials(uri)}"
        raise TrackingError(
            refusal(error, server)
            or f"{server} does not answer as it should: {_reason(error, uri)}"
        ) from error


def refusal(error: BaseException, server: str) -> str | None:
    """A sentence if the server, or its artifact store, wants to know who asks, or forbids it.

    Args:
      server: how it is named.
    """
    status = status_of(error)
    user = os.environ.get("MLFLOW_TRACKING_USERNAME")
    who = f"the user {user!r}" if user else "whoever asks without MLFLOW_TRACKING_USERNAME"
    if status == 401:
        return (
            f"{server} does not let in {who}: set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, as its keeper gave them."
        )
    if status == 403:
        return (
            f"{server} does not allow this to {who}: ask its keeper for the right to edit the "
            "experiment and the registered model, or name others by --tracking.experiment and "
            "--tracking.registered-model."
        )
    return None


def status_of(error: BaseException) -> int | None:
    """The HTTP status of a refusal, whichever of MLflow's ways it came by."""
    found = getattr(getattr(error, "response", None), "status_code", None)
    if found is None and isinstance(error, MlflowException):
        told = re.search(r"error code (40[13])\b", str(error.message))
        codes = {"UNAUTHENTICATED": 401, "PERMISSION_DENIED": 403}
        found = int(told[1]) if told else codes.get(str(error.error_code))
    return found if isinstance(found, int) else None


def _reason(error: Exception, uri: str) -> str:
    """The first line that says something of this error, without secrets."""
    lines = [line for line in str(error).splitlines() if not line.startswith("(raised as")]
    reason = redact(lines[0].strip(), uri)[:200] if lines else ""
    return (
        reason
        if isinstance(error, MlflowException | OSError) and reason
        else (f"{type(error).__name__}: {reason}" if reason else type(error).__name__)
    )


def start_run(
    settings: Settings,
    run_folder: Path | None = None,
    *,
    known_run_id: str | None = None,
    parent: MlflowRun | None = None,
) -> tuple[MlflowRun, list[str]]:
    """The MLflow run of these settings: a new one, or the known one, RUNNING again.

    A run with a parent is recorded on the parent's server, below it, unless that is a file of
    another machine. The settings are stored with
    the run, which also shows that its artifact store takes files.

    Args:
      run_folder: where records of its own lie, if its storage is far, and there is no server.
    Returns: the run, and sentences on what a person must know, such as an experiment that had
      been deleted.
    Raises: TrackingError if the server does not answer, or does not take what is recorded.
    """
    file = None if parent is None else database_file(parent.uri)
    if file is not None and not file.is_file():
        parent = None
    uri = tracking_uri(settings.storage, run_folder) if parent is None else parent.uri
    notes = list[str]()
    with answering(uri) as client:
        if known_run_id is not None and is_there(client, known_run_id):
            run = MlflowRun(uri, known_run_id)
            client.update_run(run.run_id, status="RUNNING")
        else:
            experiment_id = _open_experiment(client, uri, settings, notes)
            if known_run_id is not None and is_there(client, known_run_id):
                run = MlflowRun(uri, known_run_id)  # deleted and restored with its experiment
                client.update_run(run.run_id, status="RUNNING")
            else:
                run = _create_run(client, uri, experiment_id, settings, parent)
        client.log_text(run.run_id, to_json(settings), SETTINGS_FILE)
    return run, notes


def _create_run(
    client: MlflowClient,
    uri: str,
    experiment_id: str,
    settings: Settings,
    parent: MlflowRun | None,
) -> MlflowRun:
    tags = {"mlflow.source.git.commit": git_revision()}
    if parent is not None:
        tags["mlflow.parentRunId"] = parent.run_id
    run_id = client.create_run(experiment_id, run_name=settings.name, tags=tags).info.run_id
    params = [Param(key, str(value)) for key, value in in_use(settings).items()]
    client.log_batch(run_id, params=params)
    if diff := git_diff():
        client.log_text(run_id, diff, "git_diff.patch")
    return MlflowRun(uri, run_id)


def _open_experiment(client: MlflowClient, uri: str, settings: Settings, notes: list[str]) -> str:
    """Id of the run's experiment, made or restored if need be."""
    name, file = settings.tracking.experiment, database_file(uri)
    found = client.get_experiment_by_name(name)
    if found is not None:
        if found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
            notes.append(
                f"The experiment {name!r} had been deleted in MLflow at "
                f"{without_credentials(uri)}; it is restored, as this run is recorded in it."
            )
        return str(found.experiment_id)
    location = None if file is None else f"{file.resolve().parent.as_uri()}/{ARTIFACTS}"
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
