"""Runs as MLflow records: settings, measures by step, the code's revision, a true end."""

import json
import logging
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run
from mlflow.exceptions import MlflowException

from bt_ray.config import Settings, flatten
from bt_ray.errors import RunStoppedError, TrackingError
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
    """A client of the server; its failures become TrackingErrors, after seconds, not minutes."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", _HTTP_TRIES)
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", _HTTP_TIMEOUT_S)
    try:
        yield MlflowClient(uri)
    except (MlflowException, OSError) as error:
        lines = [line for line in str(error).splitlines() if not line.startswith("(raised as")]
        reason = lines[0][:200] if lines else type(error).__name__
        raise TrackingError(f"MLflow at {uri} does not answer as it should: {reason}") from error


def tracking_uri(storage: str) -> str:
    """The server in MLFLOW_TRACKING_URI, or an SQLite file in the folder of all runs."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{storage}/mlflow.db"


def start_run(
    settings: Settings, *, known_run_id: str | None = None, parent: MlflowRun | None = None
) -> MlflowRun:
    """The MLflow run of these settings: a new one, or the known one set going again.

    A child is recorded where its parent is.

    Raises: TrackingError if the server does not answer.
    """
    uri = tracking_uri(settings.storage) if parent is None else parent.uri
    with answering(uri) as client:
        if known_run_id is not None and _is_there(client, known_run_id):
            client.update_run(known_run_id, status="RUNNING")
            return MlflowRun(uri, known_run_id)
        run = _create_run(uri, settings.name, settings, parent)
        params = [Param(key, str(value)) for key, value in flatten(settings).items()]
        client.log_batch(run.run_id, params=params)
        if diff := git_diff():
            client.log_text(run.run_id, diff, "git_diff.patch")
        return run


def run_of_folder(
    run_folder: Path, settings: Settings, *, parent: MlflowRun | None = None
) -> MlflowRun:
    """The MLflow run of a folder, set going again or new, and noted there: one across restarts.

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
    return MlflowRun(tree["uri"], tree["run_id"])


def _is_there(client: MlflowClient, run_id: str) -> bool:
    """Whether the server has this run, and has not deleted it."""
    try:
        return bool(client.get_run(run_id).info.lifecycle_stage == "active")
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return False  # the latter of what is no id at all
        raise


@dataclass(frozen=True, kw_only=True)
class RecordedFacts:
    """What MLflow knows of a run."""

    run_id: str
    name: str
    state: str
    """RUNNING, FINISHED, KILLED or FAILED."""
    commit: str | None
    storage: str | None
    """Folder of all runs, where the run's own may be."""
    params: dict[str, str]
    """Settings by their dotted keys."""


def find_recorded(uri: str, reference: str) -> RecordedFacts | None:
    """The run of this id, or the last one of this name; none if MLflow knows no such run.

    Raises: TrackingError if the server does not answer.
    """
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        return None  # a client would make the file
    with answering(uri) as client:
        if _is_there(client, reference):
            return _facts(client.get_run(reference))
        ids = [found.experiment_id for found in client.search_experiments()]
        name = reference.replace("\\", "").replace("'", "")
        runs = client.search_runs(
            ids, f"attributes.run_name = '{name}'", max_results=1, order_by=["start_time DESC"]
        )
        return _facts(runs[0]) if runs else None


def _facts(run: Run) -> RecordedFacts:
    return RecordedFacts(
        run_id=run.info.run_id,
        name=str(run.info.run_name),
        state=run.info.status,
        commit=run.data.tags.get("mlflow.source.git.commit"),
        storage=run.data.params.get("storage"),
        params=dict(run.data.params),
    )


def recorded_history(uri: str, run_id: str) -> dict[str, dict[int, float]]:
    """Metric name → step → value, ordered by step. Raises: TrackingError."""
    with answering(uri) as client:
        names = client.get_run(run_id).data.metrics
        return {
            name: {m.step: m.value for m in sorted(
                client.get_metric_history(run_id, name), key=lambda m: (m.step, m.timestamp))}
            for name in names
        }  # fmt: skip


def _create_run(uri: str, name: str, settings: Settings, parent: MlflowRun | None) -> MlflowRun:
    tags = {"mlflow.source.git.commit": git_revision()}
    if parent is not None:
        tags["mlflow.parentRunId"] = parent.run_id
    experiment_id = experiment(uri, settings.tracking.experiment, Path(settings.storage))
    run = MlflowClient(uri).create_run(experiment_id, run_name=name, tags=tags)
    return MlflowRun(uri, run.info.run_id)


@dataclass
class Ending:
    """How a run will have ended, unless something is raised before."""

    state: EndState = "FINISHED"


@contextmanager
def ending(run: MlflowRun) -> Iterator[Ending]:
    """Says truthfully how an MLflow run ended: FINISHED, KILLED (it was stopped) or FAILED.

    A server that is away when a run ends changes nothing about how it ended.
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


def experiment(uri: str, name: str, storage: Path) -> str:
    """Id of the experiment of this name, made if need be."""
    client = MlflowClient(uri)
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    location = f"{storage.as_uri()}/mlartifacts" if uri.startswith("sqlite") else None
    tags = {"mlflow.experimentKind": "custom_model_development"}  # which pages the UI shows
    return str(client.create_experiment(name, artifact_location=location, tags=tags))


def git_revision() -> str:
    """The commit of the code that runs, `-dirty` if files differ from it, or `unknown`.

    A Ray job's copy of the code has no history: BT_RAY_REVISION says it there.
    """
    told = os.environ.get("BT_RAY_REVISION")
    if told:
        return told
    return (
        _git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*").strip() or "unknown"
    )


def git_diff() -> str:
    """How the code that runs differs from its commit; empty if it does not, or has none."""
    return _git("diff", "HEAD")


def _git(*arguments: str) -> str:
    """What git says of the code's repository; empty if there is none."""
    try:
        shown = subprocess.run(
            ["git", *arguments],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            errors="replace",
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return shown.stdout
