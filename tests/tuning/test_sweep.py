"""A whole sweep on a real Ray cluster."""

from collections.abc import Iterator

import pytest
import ray
from mlflow import MlflowClient

from bt_ray.config import Settings, override
from bt_ray.tuning.space import load_space
from bt_ray.tuning.sweep import sweep

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module", autouse=True)
def _just_enough() -> Iterator[None]:
    """A cluster that has room for one trial and not a CPU more."""
    ray.init(address="local", num_cpus=3, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def test_a_sweep_ends_in_a_registered_winner(small_settings: Settings) -> None:
    settings = override(small_settings, {"scaling.workers": 2, "scaling.cpus_per_worker": 0.5})
    summary = sweep(load_space("redundancy_weight"), settings, trials=2)
    assert len(summary.trials) == 2
    key = "objective.redundancy_weight"
    assert summary.trials[0].changes == {key: 5e-3}  # the paper's value comes first
    assert 5e-4 <= summary.trials[1].changes[key] <= 5e-2
    assert summary.metric == "knn/top1"
    scores = [trial.score or 0.0 for trial in summary.trials]
    assert summary.best.score == max(scores) > 0.3
    assert summary.winner.model_version == "barlow-small/1"
    assert summary.winner.scores["knn_top1"] == summary.best.score

    client = MlflowClient(summary.winner.paths["mlflow"])
    parent = client.get_run(summary.run_id)
    assert parent.info.status == "FINISHED"
    children = client.search_runs(
        [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{summary.run_id}'"
    )
    assert len(children) == 2
    assert {child.info.status for child in children} == {"FINISHED"}
    tried = {float(child.data.params[key]) for child in children}
    assert tried == {trial.changes[key] for trial in summary.trials}
    assert summary.winner.run_id in {child.info.run_id for child in children}
