"""Whether the MLflow server answers, keeps what is logged, and takes files."""

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

from bt_ray.data.location import public_name
from bt_ray.errors import TrackingError
from bt_ray.tracking.mlflow import answering

_EXPERIMENT, _FILE = "bt_ray doctor", "trial.txt"


@dataclass(frozen=True, kw_only=True)
class TrackingFacts:
    """What MLflow did; a stage that was not come to is not done."""

    uri: str
    """Without a password."""
    answer_ms: float | None = None
    """Of a question for one experiment."""
    logged: bool = False
    """Whether a run was made, and a number logged to it came back."""
    kept_file: bool = False
    """Whether a file came back as it was stored."""
    fault: str | None = None
    """What the first stage that failed said."""


def measure_tracking(uri: str) -> TrackingFacts:
    """Makes a run, logs a number and a file, reads both, and deletes the run."""
    facts = TrackingFacts(uri=public_name(uri))
    try:
        with answering(uri) as client:
            began = time.perf_counter()
            found = client.get_experiment_by_name(_EXPERIMENT)
            facts = replace(facts, answer_ms=1e3 * (time.perf_counter() - began))
            if found is None:
                experiment_id = client.create_experiment(_EXPERIMENT)
            else:
                experiment_id = found.experiment_id
                if found.lifecycle_stage == "deleted":
                    client.restore_experiment(experiment_id)
            run_id = client.create_run(experiment_id).info.run_id
        try:
            with answering(uri) as client:
                client.log_metric(run_id, "trial", 1.0)
                came_back = client.get_run(run_id).data.metrics.get("trial") == 1.0
                facts = replace(facts, logged=came_back)
            with answering(uri) as client, tempfile.TemporaryDirectory() as folder:
                client.log_text(run_id, "a few words", _FILE)
                file = client.download_artifacts(run_id, _FILE, folder)
                facts = replace(facts, kept_file=Path(file).read_text() == "a few words")
        finally:
            with answering(uri) as client:
                client.set_terminated(run_id)
                client.delete_run(run_id)
    except TrackingError as error:
        return replace(facts, fault=str(error).replace(uri, public_name(uri)))
    return facts
