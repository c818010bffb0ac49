"""Whole runs in this process, without Ray."""

import errno
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from bt_ray.checkpoints import draft, manifest
from bt_ray.checkpoints.checkpoint import last_checkpoint
from bt_ray.checkpoints.tensor_file import write_tensors
from bt_ray.config import Settings, override
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.stream.plan import build_plan
from bt_ray.errors import (
    CheckpointError,
    DataError,
    LaunchError,
    NewerSchemaError,
    NonFiniteLossError,
    RunFailedError,
    RunStoppedError,
    SettingsError,
)
from bt_ray.model.weights import ENCODER
from bt_ray.tracking.mlflow_record import recorded_run
from bt_ray.tracking.snapshots import read_snapshots
from bt_ray.tracking.tracker import METRICS, read_history
from bt_ray.training.assignment import Pretraining
from bt_ray.training.launch import note_on_parts, pretrain, sole_owner
from bt_ray.training.local import train_here
from pipelines.pretrain import print_summary

pytestmark = pytest.mark.run


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
    train_here(Pretraining(override(settings, {"name": "whole"})), stop)
    shutil.copytree(whole, again)
    start = again / "probes" / "step-000000000.npz"
    written = start.stat().st_mtime_ns
    newest, step = last_checkpoint(again)
    assert newest is not None
    assert step == stop == 6
    (newest / ENCODER).write_bytes(b"cut short")
    assert last_checkpoint(again)[1] == 5
    train_here(Pretraining(override(settings, {"name": "again"})), stop)
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
    with pytest.raises(
        SettingsError, match=r"There is a run 'small' in .* other settings \(schedule.epochs\)"
    ):
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
    figures = ["correlation.png", "curves.png", "eigenvalues.png", "views.png"]
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
    assert status(Path(settings.storage) / "wild") == "FAILED"


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


@pytest.mark.parametrize(
    "storage", ["ftp://host/runs", "s3://KEY:HIDDEN@bucket/runs?endpoint_override=127.0.0.1:9"]
)
def test_a_storage_that_cannot_be_written_to_is_named(settings: Settings, storage: str) -> None:
    with pytest.raises(SettingsError, match=r"storage=(ftp|s3)://\w+/runs must be") as raised:
        pretrain(override(settings, {"storage": storage}))
    assert "HIDDEN" not in str(raised.value)


def status(summary_folder: Path) -> str:
    run = recorded_run(summary_folder)
    assert run is not None
    state: str = MlflowClient(run.uri).get_run(run.run_id).info.status
    return state


def weights(run_folder: Path) -> bytes:
    checkpoint, _ = last_checkpoint(run_folder)
    assert checkpoint is not None
    return (checkpoint / ENCODER).read_bytes()


def test_a_time_limit_leaves_the_run_to_be_continued_bit_for_bit(settings: Settings) -> None:
    whole = pretrain(override(settings, {"name": "whole"}), register=False)
    limited = override(settings, {"scaling.max_hours": 1e-9})
    folder = Path(settings.storage) / "small"
    for step in range(1, 3):
        summary = pretrain(limited, register=True)
        assert (summary.steps, summary.total_steps, summary.model_version) == (step, 6, None)
        assert f"stopped after {step} of 6 steps" in summary.warnings[0]
        assert status(folder) == "KILLED"
    done = pretrain(override(settings, {"scaling.max_hours": 1.0}), register=False)
    assert (done.steps, done.warnings) == (6, whole.warnings)
    assert status(folder) == "FINISHED"
    assert weights(folder) == weights(Path(settings.storage) / "whole")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_a_checkpoint_and_says_so(
    settings: Settings, number: signal.Signals
) -> None:
    long = override(settings, {"schedule.epochs": 500, "training.checkpoint_every_epochs": 500})
    folder = Path(settings.storage) / "small"

    def send() -> None:
        while not read_history(folder / METRICS).get("train/loss"):
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    sender = threading.Thread(target=send)
    sender.start()
    before = signal.getsignal(number)
    with pytest.raises(RunStoppedError, match=f"{number.name} stopped the run after") as stopped:
        pretrain(long, register=False)
    sender.join()
    assert stopped.value.signal_number == number
    assert signal.getsignal(number) is before
    assert 0 < last_checkpoint(folder)[1] < 1000
    assert status(folder) == "KILLED"


def test_a_run_that_is_going_is_not_started_twice(settings: Settings) -> None:
    folder = Path(settings.storage) / "small"
    with sole_owner(folder), pytest.raises(LaunchError, match=r"'small' in .* is going already"):
        pretrain(settings)
    assert not (folder / "settings.json").exists()


def test_a_new_run_starts_from_the_weights_of_another(settings: Settings) -> None:
    short = override(settings, {"schedule.epochs": 1})
    pretrain(override(short, {"name": "first"}), register=False)
    start = {"model.start_from": str(Path(settings.storage) / "first")}
    frozen = start | {"optimizer.weight_rate": 1e-30, "optimizer.bias_rate": 1e-30}
    pretrain(override(short, frozen | {"name": "second"}), register=False)
    first, second = (
        load_file(folder / ENCODER)
        for name in ("first", "second")
        if (folder := last_checkpoint(Path(settings.storage) / name)[0])
    )
    for name, value in first.items():
        if value.dim() > 1:
            torch.testing.assert_close(second[name], value)
    other = override(settings, start | {"name": "third", "model.encoder": "conv6"})
    with pytest.raises(CheckpointError, match=r"holds a conv4 .* and model.encoder=conv6"):
        pretrain(other)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        pretrain(override(settings, {"model.start_from": "/nowhere"}))


def test_checkpoints_of_other_settings_or_a_newer_schema_are_refused_and_kept(
    settings: Settings,
) -> None:
    pretrain(settings, register=False)
    folder = Path(settings.storage) / "small"
    checkpoint, _ = last_checkpoint(folder)
    assert checkpoint is not None
    kept = weights(folder)
    (folder / "settings.json").unlink()
    with pytest.raises(CheckpointError, match=r"with another objective.redundancy_weight"):
        pretrain(override(settings, {"objective.redundancy_weight": 0.1}))
    record = json.loads((checkpoint / "state.json").read_text())
    (checkpoint / "state.json").write_text(json.dumps(record | {"schema_version": 99}))
    names = [file.name for file in checkpoint.iterdir() if file.name != manifest.MANIFEST]
    sums = {name: manifest.sha256(checkpoint / name) for name in names}
    manifest.write_manifest(checkpoint, record["step"], sums)
    with pytest.raises(NewerSchemaError, match="schema 99"):
        pretrain(settings)
    assert (checkpoint / ENCODER).read_bytes() == kept


def test_a_storage_that_cannot_be_written_is_named(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SettingsError, match=r"storage=.*file/runs must be a folder that can be"):
        pretrain(override(settings, {"storage": str(tmp_path / "file" / "runs")}))


def test_a_full_disk_is_named_and_costs_no_earlier_checkpoint(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(settings.storage) / "small"

    def write_until_full(tensors: Mapping[str, Tensor], file: Path) -> str:
        if last_checkpoint(folder)[1] == 3:
            file.write_bytes(b"cut short")
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_tensors(tensors, file)

    with monkeypatch.context() as patch:
        patch.setattr(draft, "write_tensors", write_until_full)
        with pytest.raises(RunFailedError, match=r"step 4 .*\(No space left on device\)"):
            pretrain(settings, register=False)
    assert status(folder) == "FAILED"
    assert sorted(f.name[-1] for f in (folder / "local").iterdir()) == ["2", "3"]
    assert pretrain(settings, register=False).steps == 6


def test_a_restart_reads_what_it_continues_from_once(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the end of a run what it came to; each time the tensors' files, of 1.4 GB in earnest."""
    pretrain(override(settings, {"scaling.max_hours": 1e-9}), register=False)
    hashed, sha256 = list[str](), manifest.sha256

    def counting(file: Path) -> str:
        if file.suffix == ".safetensors":
            hashed.append(f"{file.parent.name[-1]} {file.stem}")
        return sha256(file)

    monkeypatch.setattr(manifest, "sha256", counting)
    assert pretrain(settings, register=False).steps == 6
    parts = ("encoder", "optimizer", "projector")
    assert hashed == [f"{step} {part}" for step in (1, 6) for part in parts]


def test_a_run_in_parts_says_so(settings: Settings) -> None:
    changes = {"training.micro_batch": 50, "schedule.epochs": 1}
    said = "used the statistics of 43 images at a time (training.micro_batch=50), not of all 128."
    summary = pretrain(override(settings, changes), register=False)
    assert summary.steps == 2
    assert any(said in warning for warning in summary.warnings)
    assert note_on_parts(settings) is None
    two = override(settings, changes | {"scaling.workers": 2})
    assert "statistics of 64 images" in (note_on_parts(two) or "")
