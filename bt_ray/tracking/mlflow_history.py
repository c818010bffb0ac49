"""Runs as MLflow recorded them: facts and measures, read back."""

from dataclasses import dataclass
from pathlib import Path

from mlflow.entities import Run

from bt_ray.tracking.mlflow import answering, is_there


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
        if is_there(client, reference):
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
