"""Whole runs in this process, without Ray."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from PIL import Image

from bt_ray.config import Settings, override
from bt_ray.data.plan import build_plan
from bt_ray.data.shards import ShardSet
from bt_ray.errors import DataError, LaunchError, NonFiniteLossError, SettingsError
from bt_ray.model.weights import ENCODER
from bt_ray.tracking.snapshots import read_snapshots
from bt_ray.tracking.tracker import METRICS, read_history
from bt_ray.training.launch import pretrain
from bt_ray.training.local import train_here
from bt_ray.training.state import last_checkpoint
from pipelines.pretrain import print_summary


def total_steps(settings: Settings) -> int:
    manifest = ShardSet.open(settings.data.train).manifest
    return build_plan(settings, manifest).steps_per_epoch * settings.schedule.epochs


@pytest.fixture
def settings(small_settings: Settings) -> Settings:
    return override(small_settings, {"scaling.workers": 0})


def test_a_run_that_lost_its_last_checkpoint_goes_on_from_the_one_before(
    settings: Settings, tmp_path: Path
) -> None:
    stop = total_steps(settings)
    whole, again = tmp_path / "whole", tmp_path / "again"
    train_here(settings, whole, stop)
    shutil.copytree(whole, again)
    start = again / "probes" / "step-000000000.npz"
    written = start.stat().st_mtime_ns
    newest, step = last_checkpoint(again)
    assert newest is not None
    assert step == stop == 6
    (newest / ENCODER).write_bytes(b"cut short")
    assert last_checkpoint(again)[1] == 5
    train_here(settings, again, stop)
    folders = [last_checkpoint(folder)[0] for folder in (whole, again)]
    files = [(folder / ENCODER).read_bytes() for folder in folders if folder]
    assert files[0] == files[1]
    assert len(list((again / "local").iterdir())) == 2
    assert list(read_history(again / METRICS)["train/loss"]) == [1, 2, 3, 4, 5, 6]
    assert list(read_snapshots(again)) == [0, 6]
    assert start.stat().st_mtime_ns == written, "the start's arrays were made anew"


def test_no_checkpoint_is_step_zero(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path / "nothing") == (None, 0)


def test_a_name_with_other_settings_is_refused(settings: Settings) -> None:
    pretrain(override(settings, {"schedule.epochs": 1}), register=False)
    with pytest.raises(SettingsError, match="There is a run 'small'"):
        pretrain(settings, register=False)


def test_images_without_labels_are_scored_and_drawn(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A flat folder of images and no test set: no kNN anywhere, everything else is there."""
    shards = ShardSet.open(settings.data.train)
    images = shards.read(np.arange(2))["image"].to_pylist() * 2
    (tmp_path / "flat").mkdir()
    for i, encoded in enumerate(images):
        (tmp_path / "flat" / f"{i}.jpg").write_bytes(encoded)
    changes = {"data.train": str(tmp_path / "flat"), "data.test": None, "name": "bare"}
    summary = pretrain(override(settings, changes), register=False)
    scores = summary.scores
    assert scores["knn_top1"] is scores["knn_top1_untrained"] is None
    assert 0 < (scores["alignment"] or 0) < 4
    assert -4 < (scores["uniformity"] or 0) < 0
    figures = ["correlation.png", "curves.png", "eigenvalues.png"]
    folder = Path(settings.storage) / "bare" / "figures"
    assert sorted(file.name for file in folder.iterdir()) == figures
    assert summary.paths["curves"] == str(folder / "curves.png")
    stored = MlflowClient(summary.paths["mlflow"]).list_artifacts(summary.run_id)
    assert {file.path for file in stored} >= {*figures, "summary.json"}

    print_summary(asdict(summary))
    shown = capsys.readouterr().err
    assert "kNN" not in shown
    assert "alignment" in shown
    assert f"{scores['rankme_untrained']:.1f} → {scores['rankme']:.1f}" in shown


def test_a_non_finite_loss_ends_the_run_as_failed(settings: Settings) -> None:
    changes = {"optimizer.weight_rate": 1e38, "schedule.warmup_epochs": 0, "name": "wild"}
    with pytest.raises(NonFiniteLossError, match="at step"):
        pretrain(override(settings, changes))
    record = json.loads((Path(settings.storage) / "wild" / "mlflow_run.json").read_text())
    assert MlflowClient(record["uri"]).get_run(record["run_id"]).info.status == "FAILED"


def test_classes_that_differ_between_train_and_test_are_named(
    settings: Settings, tmp_path: Path
) -> None:
    for folder, names in (("train", "abc"), ("test", "bcd")):
        for name in names:
            (tmp_path / folder / name).mkdir(parents=True)
            Image.new("RGB", (9, 9)).save(tmp_path / folder / name / "1.png")
    changes = {"data.train": str(tmp_path / "train"), "data.test": str(tmp_path / "test")}
    with pytest.raises(DataError, match="only one of them has a, d"):
        pretrain(override(settings, changes))


def test_a_gpu_that_is_not_there_is_said(settings: Settings) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(LaunchError, match="there is none here"):
        pretrain(override(settings, {"scaling.accelerator": "gpu"}))


def test_storage_must_be_a_folder(settings: Settings) -> None:
    with pytest.raises(SettingsError, match=r"storage=s3://bucket/runs must be a folder"):
        pretrain(override(settings, {"storage": "s3://bucket/runs"}))
