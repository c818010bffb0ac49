"""A whole comparison: searched, trained, scored, continued, recorded."""

from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from bt_ray.ablations import train
from bt_ray.ablations.ablate import Plan
from bt_ray.ablations.progress import StudyProgress
from bt_ray.comparison.compare import compare
from bt_ray.comparison.outcome import Outcome
from bt_ray.comparison.show import write_comparison
from bt_ray.comparison.study import Entrants
from bt_ray.config import Settings, override
from tests.ablations.test_train import Here

pytestmark = pytest.mark.run

ENTRANTS = Entrants(methods=("barlow_twins", "simclr"), rates=(1.0, 1e30))
"""The second rate ends in a loss that is not finite."""


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "ProcessPoolExecutor", lambda *_, **__: Here())


@pytest.fixture
def settings(small_settings: Settings) -> Settings:
    changes = {"scaling.workers": 0, "schedule.epochs": 2, "training.checkpoint_every_epochs": 2}
    return override(small_settings, changes)


def make(settings: Settings, plan: Plan, folder: Path) -> tuple[Outcome, list[StudyProgress]]:
    told: list[StudyProgress] = []
    return compare(settings, ENTRANTS, plan, folder, on_progress=told.append), told


def test_it_is_searched_trained_scored_and_goes_on(settings: Settings, tmp_path: Path) -> None:
    """Stopped before the first run, then whole, then there already."""
    plan = Plan(seeds=1)
    late, told = make(settings, replace(plan, max_hours=1e-12), tmp_path)
    assert (told, late.num_missing) == ([], 7)
    write_comparison(late, tmp_path)

    whole, told = make(settings, plan, tmp_path)
    assert (len(told), whole.num_missing) == (7, 0)
    assert all(progress.is_new for progress in told)
    assert whole.untrained is not None
    (first,) = whole.untrained.results
    for row in whole.methods:
        good, wild = row.searched
        assert (good.failure, row.chosen) == (None, row.case.candidates[0])
        assert wild.failure is not None
        (result,) = row.results
        assert (good.num_images, result.num_images) == (320, 360)
        assert {"knn_top1", "linear_top1", "linear_1pct_top1"} <= result.scores.keys()
        assert len(result.curves["knn_top1"]) == 5
        assert result.curves["knn_top1"][0][0] == 0
        assert result.images_per_s
        assert result.peak_memory_mb
    assert first.scores.keys() == {
        "knn_top1", "linear_top1", "linear_top5", "linear_1pct_top1", "linear_1pct_top5"
    }  # fmt: skip
    text = write_comparison(whole, tmp_path)["md"].read_text()
    assert "SimCLR, rate 2e+29, searched: " in text

    client = MlflowClient(f"sqlite:///{settings.storage}/mlflow.db")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    parents = [run for run in runs if run.info.run_name == "comparison-small"]
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert len(parents) == 1
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parents[0].info.run_id}
    assert len(children) == 6

    again, told = make(settings, plan, tmp_path)
    assert again.rows == whole.rows
    assert not any(progress.is_new for progress in told)
