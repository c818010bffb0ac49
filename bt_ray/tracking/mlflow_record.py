"""Which MLflow run a run's folder is recorded as: one and the same, however often it starts."""

import logging
from pathlib import Path

from bt_ray.config import Settings
from bt_ray.errors import TrackingError
from bt_ray.json_files import read_json, write_json
from bt_ray.tracking.courier import record_of
from bt_ray.tracking.mlflow import MlflowRun, start_run
from bt_ray.tracking.mlflow_store import recorded_uri, resolve_uri
from bt_ray.tracking.tracker import METRICS

_log = logging.getLogger(__name__)
_RECORD = "mlflow_run.json"


def run_of_folder(
    run_folder: Path, settings: Settings, *, parent: MlflowRun | None = None
) -> tuple[MlflowRun, tuple[str, ...]]:
    """The MLflow run that this run's folder names, RUNNING again; or a new one, noted there.

    If the server has no such run any more, the new one gets all measures from the first on.

    Returns: the run, and sentences on what a person must know of it.
    Raises: TrackingError if the server does not answer, or refuses to record the run.
    """
    known = recorded_run(run_folder)
    known_id = None if known is None else known.run_id
    try:
        run, notes = start_run(settings, run_folder, known_run_id=known_id, parent=parent)
    except TrackingError as error:
        raise TrackingError(
            f"{error} Nothing was trained: mend that, or name another server by "
            "MLFLOW_TRACKING_URI; without it, records are kept in the storage."
        ) from error
    if run.run_id != known_id and record_of(run_folder / METRICS).is_file():
        record_of(run_folder / METRICS).unlink()
        notes.append(_on_another_run(run_folder, known, run))
    for note in notes:
        _log.warning(note)
    record_run(run_folder, run)
    return run, tuple(notes)


def _on_another_run(run_folder: Path, known: MlflowRun | None, run: MlflowRun) -> str:
    if known is None:
        lost = f"{run_folder / _RECORD} does not say any more which MLflow run this is"
    else:
        lost = f"MLflow at {run.public_uri} has no run {known.run_id}"
        if known.public_uri != run.public_uri:
            lost += f", which {known.public_uri} recorded"
        else:
            lost += " any more: it was deleted"
    return (
        f"{lost}; the new run {run.run_id} records this one, with its measures from the first on. "
        "Evaluations and models that were recorded with the former one are missing there."
    )


def record_run(run_folder: Path, run: MlflowRun) -> None:
    """Notes in a run's folder which MLflow run it is."""
    noted = {"run_id": run.run_id, "uri": recorded_uri(run.uri, run_folder)}
    write_json(run_folder / _RECORD, noted)


def recorded_run(run_folder: Path) -> MlflowRun | None:
    """The MLflow run of a run's folder; none if nothing was recorded, or its file is cut."""
    noted = read_json(run_folder / _RECORD)
    if noted is None or not isinstance(noted.get("uri"), str) or not noted.get("run_id"):
        return None
    return MlflowRun(resolve_uri(noted["uri"], run_folder), str(noted["run_id"]))
