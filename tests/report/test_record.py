"""A run is found by whatever names it, and what is not known of it is said."""

import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from bt_ray.config import Settings
from bt_ray.errors import SettingsError
from bt_ray.report.record import find_run
from bt_ray.tracking.mlflow_store import tracking_uri
from bt_ray.tracking.revision import git_revision
from tests.report.runs import begun_run, evaluated, finished_run


def test_a_run_is_found_by_its_folder_its_name_and_its_id(
    small_settings: Settings, tmp_path: Path
) -> None:
    folder, run = finished_run(small_settings)
    for reference in (str(folder), "small", run.run_id, f"runs:/{run.run_id}"):
        record = find_run(reference, str(tmp_path))
        assert (record.name, record.run_id, record.folder) == ("small", run.run_id, folder)
        assert record.state == "finished after 50 steps"
        assert record.commit == git_revision()
        assert record.checkpoint == folder / "train" / "checkpoint_50"
        assert record.model_version == "barlow-small/3"
        assert (record.first("knn/top1"), record.last("knn/top1")) == (0.5, 0.75)
        assert list(record.snapshots) == [0, 50]
        assert record.missing == [
            "Evaluations: none yet; see `python -m pipelines.evaluate --help`."
        ]


def test_evaluations_are_those_of_the_run(small_settings: Settings, tmp_path: Path) -> None:
    _, run = finished_run(small_settings)
    _, other = finished_run(small_settings, name="other")
    evaluated(small_settings.storage, run, "linear", {"linear_top1": 0.9})
    evaluated(small_settings.storage, run, "knn", {"knn_top1": 0.8})
    evaluated(small_settings.storage, other, "knn", {"knn_top1": 0.1})
    (tmp_path / "evaluations" / "torn.json").write_text('{"run_id": "')
    record = find_run("small", str(tmp_path))
    assert [found["scores"] for found in record.evaluations] == [
        {"knn_top1": 0.8}, {"linear_top1": 0.9}
    ]  # fmt: skip
    assert record.missing == []


def test_a_run_that_has_only_begun_says_what_is_missing(
    small_settings: Settings, tmp_path: Path
) -> None:
    record = find_run(str(begun_run(small_settings)), str(tmp_path))
    assert record.state == "unfinished, 0 steps recorded"
    assert [sentence.split(":")[0] for sentence in record.missing] == [
        "Commit and state", "Curves", "Cross-correlation and spectrum",
        "Map, neighbours and snippet", "Evaluations",
    ]  # fmt: skip


def test_a_run_without_labels_says_why_there_is_no_knn(
    small_settings: Settings, tmp_path: Path
) -> None:
    finished_run(small_settings, with_labels=False)
    assert any(
        "kNN: it needs labelled images" in s for s in find_run("small", str(tmp_path)).missing
    )


def test_a_run_that_mlflow_alone_knows(small_settings: Settings, tmp_path: Path) -> None:
    """Its folder is gone, or on another machine: settings, curves and scores are left."""
    folder, run = finished_run(small_settings)
    run.log(0, {"train/loss": 9.0})
    run.log(10, {"train/loss": 7.0, "eval/knn_top1": 0.8, "eval/knn_top1_untrained": 0.6})
    run.log(10, {"train/loss": 6.0})
    shutil.rmtree(folder)
    for reference in ("small", run.run_id):
        record = find_run(reference, str(tmp_path))
        assert record.folder is None
        assert record.history["train/loss"] == {0: 9.0, 10: 6.0}
        assert record.redundancy_weight == small_settings.objective.redundancy_weight
        assert record.flat["data.global_batch"] == "128"
        assert record.evaluations == (
            {"evaluation": "knn", "scores": {"knn_top1": 0.8, "knn_top1_untrained": 0.6}},
        )
        assert record.state == "running, 10 steps recorded"
        assert "is not within reach" in record.missing[0]


def test_what_is_no_run_is_refused(small_settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match='There is no run "it\'s gone"'):
        find_run("it's gone", str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(SettingsError, match="There is no run 'small'"):
        find_run("small", str(tmp_path / "elsewhere"))
    assert not list((tmp_path / "elsewhere").iterdir())
    uri = tracking_uri(small_settings.storage)
    client = MlflowClient(uri)
    foreign = client.create_run(client.create_experiment("others", tmp_path.as_uri()))
    with pytest.raises(SettingsError, match="is not a pretraining run"):
        find_run(foreign.info.run_id, str(tmp_path))
