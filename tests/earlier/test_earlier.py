"""Shards, runs, checkpoints and registered models of version 0.1.0 open."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bt_ray.checkpoints.checkpoint import last_checkpoint, verify_checkpoint
from bt_ray.config import Settings, from_json
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.evaluation.encoder import open_encoder
from bt_ray.model.weights import ENCODER
from bt_ray.tracking.tracker import read_history
from bt_ray.training.launch import pretrain
from tests.earlier.unpack import unpack

ROOT = Path(__file__).parents[2]


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    return unpack(tmp_path / "runs")


def settings_of(storage: Path) -> Settings:
    return from_json((storage / "old" / "settings.json").read_text())


def test_shards_open(storage: Path) -> None:
    shards = ShardSet.open(str(storage / "shards" / "digits-test-64"))
    assert shards.manifest.num_rows == 360
    rows = shards.read(np.array([0]))
    assert rows["row"].to_pylist() == list(range(64))
    assert (
        shards.manifest.digest
        == json.loads((storage / "evaluations" / "tmp_fixture_runs_old-linear.json").read_text())[
            "data"
        ]["train"]["digest"]
    )


@pytest.mark.run
def test_a_run_that_was_cut_off_comes_to_the_weights_that_it_would_have_had(
    storage: Path,
) -> None:
    _, steps = last_checkpoint(storage / "old")
    assert steps == 4
    [registered] = storage.glob("mlartifacts/models/*/artifacts/artifacts")
    before = read_history(storage / "old" / "metrics.jsonl")["train/loss"]
    summary = pretrain(settings_of(storage))
    assert (summary.steps, summary.stream_digest) == (6, "9b98dd47d0c7d248")
    after = read_history(storage / "old" / "metrics.jsonl")["train/loss"]
    assert after == pytest.approx(before, rel=1e-5)
    ours = load_file(Path(summary.paths["checkpoint"]) / ENCODER)
    for name, theirs in load_file(registered / ENCODER).items():
        torch.testing.assert_close(ours[name], theirs, rtol=1e-4, atol=1e-5, msg=name)
    assert summary.model_version == "barlow-old/1", "registered once, by the earlier version"


def test_a_classifiers_checkpoint_opens(storage: Path) -> None:
    [folder] = storage.glob("evaluations/linear-*")
    checkpoint, steps = last_checkpoint(folder)
    assert steps == 10
    assert checkpoint is not None
    assert verify_checkpoint(checkpoint)["schema_version"] == 1


@pytest.mark.parametrize("name", ["{storage}/old", "models:/barlow-old/1"])
def test_an_encoder_is_found_by_every_name(storage: Path, name: str) -> None:
    pretrained, run = open_encoder(name.format(storage=storage), settings_of(storage))
    assert pretrained.num_features == 256
    assert run is not None
    assert run.run_id == "89deed920280492da4917ef8a3f1d90d"


_PREDICT = """
import json, sys
import mlflow, pandas
{first}
mlflow.set_tracking_uri("sqlite:///" + sys.argv[1] + "/mlflow.db")
told = json.load(open(sys.argv[1] + "/prediction.json"))
model = mlflow.pyfunc.load_model("models:/barlow-old/1")
features = model.predict(pandas.DataFrame({{"image": [bytes.fromhex(told["image"])]}}))[0]
error = max(abs(a - b) for a, b in zip(features, told["features"], strict=True))
sys.exit(0 if error < 1e-4 else f"off by {{error}}")
"""


@pytest.mark.parametrize("first", ["", "import bt_ray.training.launch"])
def test_a_registered_encoder_says_what_it_said(storage: Path, first: str) -> None:
    """With its own code, which travels with it, or against a bt_ray that is imported already."""
    done = subprocess.run(
        [sys.executable, "-c", _PREDICT.format(first=first), str(storage)],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
