"""A run goes on whatever became of its record in MLflow, and says what is missing."""

import json
import shutil
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.tracking._tracking_service import utils as service

from bt_ray.config import SETTINGS_FILE, Settings, override, to_json
from bt_ray.errors import TrackingError
from bt_ray.model.encoder import build_encoder
from bt_ray.model.weights import ENCODER, save_weights
from bt_ray.tracking.courier import Courier
from bt_ray.tracking.mlflow import MlflowRun, answering
from bt_ray.tracking.mlflow_record import recorded_run, run_of_folder
from bt_ray.tracking.registry import fetch_encoder, register_encoder, reserve_name
from bt_ray.tracking.tracker import METRICS, JsonLinesTracker


def folder_of(settings: Settings) -> Path:
    folder = Path(settings.storage) / settings.name
    folder.mkdir(exist_ok=True)
    return folder


def go(settings: Settings, steps: range) -> tuple[MlflowRun, tuple[str, ...]]:
    """One go at a run: some measures, delivered."""
    folder = folder_of(settings)
    run, notes = run_of_folder(folder, settings)
    with Courier(folder / METRICS, [run], every_s=0.01):
        for step in steps:
            JsonLinesTracker(folder / METRICS).log(step, {"train/loss": float(step)})
    run.end("FINISHED")
    return run, notes


def steps_in(run: MlflowRun) -> list[int]:
    history = MlflowClient(run.uri).get_metric_history(run.run_id, "train/loss")
    return sorted(metric.step for metric in history)


def checkpoint_of(settings: Settings) -> Path:
    """What the registry takes of a checkpoint."""
    folder = folder_of(settings) / "checkpoint"
    folder.mkdir(exist_ok=True)
    save_weights(build_encoder(settings), folder / ENCODER)
    (folder / SETTINGS_FILE).write_text(to_json(settings))
    return folder


@pytest.mark.parametrize("content", ["", '{"run_id": "x', "[]", "{}"])
def test_a_torn_record_leads_to_a_new_run_with_all_measures(
    small_settings: Settings, content: str
) -> None:
    first, notes = go(small_settings, range(1, 3))
    assert notes == ()
    (folder_of(small_settings) / "mlflow_run.json").write_text(content)
    again, (note,) = go(small_settings, range(3, 5))
    assert again.run_id != first.run_id
    assert steps_in(again) == [1, 2, 3, 4]
    assert "does not say any more which MLflow run this is" in note


def test_the_same_run_goes_on_without_a_word(small_settings: Settings) -> None:
    first, _ = go(small_settings, range(1, 3))
    again, notes = go(small_settings, range(3, 5))
    assert (again, notes) == (first, ())
    assert steps_in(again) == [1, 2, 3, 4]


def test_a_deleted_run_is_recorded_anew(small_settings: Settings) -> None:
    first, _ = go(small_settings, range(1, 3))
    MlflowClient(first.uri).delete_run(first.run_id)
    again, (note,) = go(small_settings, range(3, 4))
    assert steps_in(again) == [1, 2, 3]
    assert first.run_id in note
    assert "it was deleted" in note


def test_a_deleted_experiment_is_restored_with_its_run(small_settings: Settings) -> None:
    first, _ = go(small_settings, range(1, 3))
    client = MlflowClient(first.uri)
    client.delete_experiment(client.get_run(first.run_id).info.experiment_id)
    again, (note,) = go(small_settings, range(3, 4))
    assert again == first
    assert steps_in(again) == [1, 2, 3]
    assert "'bt_ray' had been deleted" in note


def test_another_server_gets_all_and_the_former_one_is_named(
    small_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = go(small_settings, range(1, 3))
    (tmp_path / "other").mkdir()
    shutil.copy(tmp_path / "mlflow.db", tmp_path / "other")
    MlflowClient(f"sqlite:///{tmp_path}/other/mlflow.db").delete_run(first.run_id)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other/mlflow.db")
    again, (note,) = go(small_settings, range(3, 4))
    assert steps_in(again) == [1, 2, 3]
    assert f"which {first.uri} recorded" in note


@pytest.mark.parametrize("move", [shutil.move, shutil.copytree])
def test_artifacts_are_found_after_a_move_or_in_a_copy(
    small_settings: Settings, tmp_path: Path, mlflow_database: Path, move: object
) -> None:
    before, after = tmp_path / "before", tmp_path / "after [new] ü"
    before.mkdir()
    shutil.copy(mlflow_database, before)
    settings = override(small_settings, {"storage": str(before)})
    run, _ = go(settings, range(1, 2))
    version = register_encoder(run, checkpoint_of(settings), settings)
    move(before, after)  # type: ignore[operator]
    service._artifact_repos_cache.clear()  # as another process, which goes on, has it
    moved = override(settings, {"storage": str(after)})
    if move is shutil.copytree:
        shutil.rmtree(before / "mlartifacts" / "models")
    found = recorded_run(folder_of(moved))
    assert found == MlflowRun(f"sqlite:///{after}/mlflow.db", run.run_id)
    folder, run_id = fetch_encoder(
        f"models:/{settings.registered_model}/{version}", found.uri, tmp_path
    )
    assert (folder / ENCODER).is_file()
    assert run_id == run.run_id
    again, notes = go(moved, range(2, 3))
    assert (again, notes) == (found, ())
    again.log_file(folder / ENCODER, "more")
    assert (after / "mlartifacts" / run.run_id / "artifacts" / "more" / ENCODER).is_file()
    assert (before / "mlartifacts" / run.run_id / "artifacts" / "more").exists() is False


def test_an_earlier_record_with_a_path_is_found_after_a_move(
    small_settings: Settings, tmp_path: Path
) -> None:
    run, _ = go(small_settings, range(1, 2))
    noted = {"uri": "sqlite:////nowhere/mlflow.db", "run_id": run.run_id}
    (folder_of(small_settings) / "mlflow_run.json").write_text(json.dumps(noted))
    assert recorded_run(folder_of(small_settings)) == run


def test_files_that_are_gone_are_said_to_be(small_settings: Settings, tmp_path: Path) -> None:
    run, _ = go(small_settings, range(1, 2))
    version = register_encoder(run, checkpoint_of(small_settings), small_settings)
    shutil.rmtree(tmp_path / "mlartifacts" / "models")
    with pytest.raises(TrackingError, match=r"are not there: .*give the folder of the run"):
        fetch_encoder(f"models:/{small_settings.registered_model}/{version}", run.uri, tmp_path)


@pytest.mark.parametrize("name", ["bob's", "50%", 'say "x"', "ü"])
def test_a_run_of_any_name_is_registered_beside_an_active_run(
    small_settings: Settings, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a notebook that has a run and an experiment of its own, maybe on another server."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    settings = override(small_settings, {"name": name})
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    shutil.copy(tmp_path / "mlflow.db", theirs)
    run, _ = go(settings, range(1, 2))
    mlflow.set_tracking_uri(f"sqlite:///{theirs}/mlflow.db")
    try:
        for number in range(3):
            mlflow.create_experiment(f"filler {number}", artifact_location=theirs.as_uri())
        mlflow.set_experiment("filler 2")
        with mlflow.start_run() as active:
            reserve_name(run.uri, settings.registered_model)
            version = register_encoder(run, checkpoint_of(settings), settings)
            assert register_encoder(run, checkpoint_of(settings), settings) == version
            assert mlflow.active_run().info.run_id == active.info.run_id
        assert mlflow.get_tracking_uri() == f"sqlite:///{theirs}/mlflow.db"
    finally:
        mlflow.set_tracking_uri(None)
    found = MlflowClient(run.uri).get_model_version(settings.registered_model, version)
    assert found.run_id == run.run_id
    folder, _ = fetch_encoder(f"models:/{settings.registered_model}/{version}", run.uri, tmp_path)
    assert (folder / ENCODER).is_file()


def test_a_registry_that_refuses_says_so_at_once(small_settings: Settings) -> None:
    run, _ = go(small_settings, range(0))
    with pytest.raises(TrackingError, match=r"registry refuses the model 'a/b'.*Nothing was"):
        reserve_name(run.uri, "a/b")


@pytest.mark.parametrize(
    "uri",
    ["http://me:s3cret@127.0.0.1:9", "postgresql://me:s3cret@127.0.0.1:9/x", "foo://s3cret@h",
     "http://me:s3cret@[", "http://me:s3cret@host:port"],
)  # fmt: skip
def test_a_server_that_cannot_be_used_is_named_without_its_password(
    small_settings: Settings, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr("mlflow.store.db.utils.MAX_RETRY_COUNT", 1)  # MLflow's own: 100 seconds
    with pytest.raises(TrackingError, match=r"does not answer.*Nothing was trained") as caught:
        run_of_folder(folder_of(small_settings), small_settings)
    assert "s3cret" not in str(caught.value)
    assert "s3cret" not in repr(MlflowRun(uri, "x"))


def test_an_artifact_store_without_keys_is_refused_at_the_start(
    small_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    uri = f"sqlite:///{small_settings.storage}/mlflow.db"
    MlflowClient(uri).create_experiment("far", artifact_location="s3://nobodys-bucket/runs")
    settings = override(small_settings, {"tracking.experiment": "far"})
    with pytest.raises(TrackingError, match=r"(?i)credentials.*Nothing was trained"):
        run_of_folder(folder_of(settings), settings)


def test_a_damaged_database_is_one_sentence(small_settings: Settings) -> None:
    (Path(small_settings.storage) / "mlflow.db").write_bytes(b"no database at all" * 100)
    with (
        pytest.raises(TrackingError, match="not a database"),
        answering(f"sqlite:///{small_settings.storage}/mlflow.db") as client,
    ):
        client.search_experiments()
