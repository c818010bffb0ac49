"""A run goes on wherever its storage and its images are moved to; other images are refused."""

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import mlflow
import pytest

from bt_ray.config import SETTINGS_FILE, Settings, from_json, override
from bt_ray.errors import SettingsError
from bt_ray.evaluation.encoder import open_encoder
from bt_ray.forecast.forecast import forecast
from bt_ray.report.record import find_run
from bt_ray.tracking.mlflow_record import recorded_run
from bt_ray.tracking.mlflow_store import tracking_uri
from bt_ray.training.launch import pretrain
from tests.data.pictures import encoded, write_folder

pytestmark = pytest.mark.run


@pytest.fixture
def settings(small_settings: Settings, tmp_path: Path) -> Settings:
    """A run of one epoch on a folder of images, in a storage that may be moved."""
    write_folder(tmp_path / "images", {f"{i:02d}.png": encoded(i, kind="PNG") for i in range(24)})
    (tmp_path / "A").mkdir()
    shutil.copy(tmp_path / "mlflow.db", tmp_path / "A")
    return override(small_settings, {
        "storage": str(tmp_path / "A"), "data.train": str(tmp_path / "images"), "data.test": None,
        "data.global_batch": 8, "data.rows_per_row_group": 8, "schedule.epochs": 1,
        "schedule.warmup_epochs": 0.0, "scaling.workers": 0,
    })  # fmt: skip


def move(settings: Settings, tmp_path: Path) -> Settings:
    (tmp_path / "A").rename(tmp_path / "B")
    return override(settings, {"storage": str(tmp_path / "B")})


def test_a_moved_storage_holds_the_run_its_images_and_its_encoder(
    settings: Settings, tmp_path: Path
) -> None:
    first = pretrain(settings)
    moved = move(settings, tmp_path)
    (tmp_path / "B" / "small" / "content.json").unlink()  # as an earlier version left it
    encoder, run = open_encoder(str(tmp_path / "B" / "small"), moved)
    assert Path(encoder.settings.data.train).is_relative_to(tmp_path / "B")
    assert run is not None
    assert run.uri == f"sqlite:///{tmp_path / 'B' / 'mlflow.db'}"
    record = find_run(str(tmp_path / "B" / "small"), str(tmp_path / "B"))
    assert record.settings is not None
    assert Path(record.settings.data.train).exists()
    assert forecast(moved).problems == ()
    again = pretrain(moved)
    assert (again.steps, again.stream_digest) == (first.steps, first.stream_digest)
    assert again.model_version == first.model_version
    mlflow.set_tracking_uri(tracking_uri(moved.storage))
    assert mlflow.pyfunc.load_model(f"models:/{again.model_version}") is not None
    registered, _ = open_encoder(f"models:/{again.model_version}", moved)
    assert Path(registered.settings.data.train).is_relative_to(tmp_path / "B")
    with closing(sqlite3.connect(tmp_path / "B" / "mlflow.db")) as database:
        assert str(tmp_path / "A") not in "\n".join(
            str(row) for table in ("runs", "logged_models", "model_versions")
            for row in database.execute(f"SELECT * FROM {table}")
        )  # fmt: skip


def test_the_same_images_elsewhere_are_the_same_and_others_are_not(
    settings: Settings, tmp_path: Path
) -> None:
    pretrain(settings, register=False)
    shutil.copytree(tmp_path / "images", tmp_path / "copied", copy_function=shutil.copyfile)
    shutil.rmtree(tmp_path / "images")
    copied = override(settings, {"data.train": str(tmp_path / "copied")})
    assert pretrain(copied, register=False).steps == 3
    (tmp_path / "copied" / "00.png").write_bytes(encoded(99, kind="PNG"))
    with pytest.raises(SettingsError, match=r"other settings \(data\.train\)"):
        pretrain(copied, register=False)
    (tmp_path / "copied" / "00.png").write_bytes(encoded(0, kind="PNG"))
    assert pretrain(copied, register=False).steps == 3
    with pytest.raises(SettingsError, match=r"other settings \(data\.test\)"):
        pretrain(override(copied, {"data.test": "digits:test"}), register=False)


def test_a_copied_storage_records_what_happens_in_the_copy(
    settings: Settings, tmp_path: Path
) -> None:
    pretrain(settings, register=False)
    shutil.copytree(tmp_path / "A", tmp_path / "B")
    run = recorded_run(tmp_path / "B" / "small")
    assert run is not None
    assert run.uri.endswith("/B/mlflow.db")
    original = recorded_run(tmp_path / "A" / "small")
    assert original is not None
    assert original.uri.endswith("/A/mlflow.db")


def test_first_weights_from_a_run_that_was_moved_along(settings: Settings, tmp_path: Path) -> None:
    pretrain(settings, register=False)
    child = override(settings, {"name": "child", "model.start_from": str(tmp_path / "A" / "small")})
    pretrain(child, register=False)
    moved = override(move(child, tmp_path), {"model.start_from": str(tmp_path / "B" / "small")})
    assert pretrain(moved, register=False).steps == 3


@pytest.mark.parametrize("torn", ["settings.json", "content.json", "summary.json"])
@pytest.mark.parametrize("text", ["", '{"name": "sm'])
def test_a_run_whose_json_was_emptied_or_cut_short_goes_on(
    settings: Settings, tmp_path: Path, torn: str, text: str
) -> None:
    first = pretrain(settings, register=False)
    (tmp_path / "A" / "small" / torn).write_text(text)
    assert pretrain(settings, register=False).stream_digest == first.stream_digest
    told = (tmp_path / "A" / "small" / SETTINGS_FILE).read_text()
    assert from_json(told).name == "small"
    assert json.loads((tmp_path / "A" / "small" / "summary.json").read_text())["steps"] == 3
