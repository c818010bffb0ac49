"""Whole runs on a real Ray cluster."""

import contextlib
import os
import re
import threading
import time
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from mlflow import MlflowClient

from bt_ray.checkpoints.checkpoint import verify_checkpoint
from bt_ray.config import SETTINGS_FILE, Settings, from_json, in_use, override
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.views.reference import central, decode
from bt_ray.errors import LaunchError, RunFailedError
from bt_ray.model.encoder import build_encoder
from bt_ray.model.inputs import normalize
from bt_ray.model.weights import load_weights
from bt_ray.tracking.tracker import read_history
from bt_ray.training.launch import pretrain
from bt_ray.training.summary import Summary

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]

KILLED_LATER = np.random.default_rng(0).permutation(range(1, 29))[:20].tolist()
TWO = {"scaling.workers": 2, "scaling.cpus_per_worker": 0.5}
LONG = {"schedule.epochs": 30, "training.checkpoint_every_epochs": 1.5}
TENSORS = ("encoder.safetensors", "projector.safetensors", "optimizer.safetensors")


@pytest.fixture
def settings(small_settings: Settings) -> Settings:
    return override(small_settings, TWO)


@pytest.fixture(scope="module")
def two_workers(shared_settings: Settings) -> Summary:
    """A run of two workers, three epochs, which is registered."""
    return pretrain(override(shared_settings, {"name": "two", **TWO}))


@pytest.fixture(scope="module")
def undisturbed(shared_settings: Settings) -> Summary:
    """A longer run, to which nothing happens."""
    return pretrain(
        override(shared_settings, {"name": "undisturbed", **TWO, **LONG}), register=False
    )


def settings_of(summary: Summary) -> Settings:
    return from_json((Path(summary.paths["run"]) / SETTINGS_FILE).read_text())


def assert_same_checkpoint(one: Summary, other: Summary) -> None:
    for name in TENSORS:
        files = [Path(summary.paths["checkpoint"]) / name for summary in (one, other)]
        assert files[0].read_bytes() == files[1].read_bytes(), name


def test_a_run_ends_in_a_registered_encoder_and_a_truthful_record(two_workers: Summary) -> None:
    summary, settings = two_workers, settings_of(two_workers)
    assert summary.steps == 6
    assert summary.images_per_s > 0
    assert 0.3 < (summary.scores["knn_top1_untrained"] or 0) <= 1
    assert 0.3 < (summary.scores["knn_top1"] or 0) <= 1
    assert summary.model_version == "barlow-two/1"

    client = MlflowClient(summary.paths["mlflow"])
    run = client.get_run(summary.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["objective.redundancy_weight"] == "0.005"
    assert run.data.params.keys() >= in_use(settings).keys()
    assert re.match("[0-9a-f]{40}", run.data.tags["mlflow.source.git.commit"])
    assert run.data.tags["data_digest"] == ShardSet.open(settings.data.train).manifest.digest
    assert run.data.tags["stream_digest"] == summary.stream_digest
    assert run.data.tags["checkpoint"] == summary.paths["checkpoint"]
    losses = client.get_metric_history(summary.run_id, "train/loss")
    assert [metric.step for metric in losses] == [1, 2, 3, 4, 5, 6]
    assert losses[-1].value == summary.scores["loss"]

    again = pretrain(settings)  # finished: nothing to train, nothing registered twice
    assert again == summary

    assert "MLFLOW_TRACKING_URI" not in os.environ
    mlflow.set_tracking_uri(summary.paths["mlflow"])
    model = mlflow.pyfunc.load_model(f"models:/{summary.model_version}")
    images = ShardSet.open(settings.data.test or "").read(np.array([0]))["image"].to_pylist()
    got = model.predict(pd.DataFrame({"image": images}))
    encoder = build_encoder(settings)
    load_weights(encoder, Path(summary.paths["checkpoint"]) / "encoder.safetensors")
    pixels = np.stack([np.asarray(central(decode(image), 8)) for image in images])
    with torch.no_grad():
        expected = encoder.eval()(
            normalize(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()), settings.data)
        )
    assert got.shape == (64, 256)
    np.testing.assert_allclose(got, expected.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("workers", [0, 1, pytest.param(4, marks=pytest.mark.cluster)])
def test_any_number_of_workers_sees_the_same_data_and_follows_the_same_curve(
    two_workers: Summary, settings: Settings, workers: int
) -> None:
    summary = pretrain(override(settings, {"scaling.workers": workers}), register=False)
    curve, other = (
        [*history["train/loss"].values(), history["probe/rankme"][0]]
        for history in (read_history(Path(s.paths["metrics"])) for s in (summary, two_workers))
    )
    np.testing.assert_allclose(curve, other, rtol=1e-3)
    assert summary.stream_digest == two_workers.stream_digest


def training_workers() -> list[psutil.Process]:
    """Processes of this test's cluster that train."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "RayTrainWorker" in " ".join(process.cmdline()):
                found.append(process)
    return found


def kill_a_worker_after(metrics: Path, step: int, killed: list[int]) -> None:
    """SIGKILLs one worker that came after this call, as soon as its run reports `step`."""
    others = {process.pid for process in training_workers()}
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        if max(read_history(metrics).get("train/loss", {0: 0.0})) >= step:
            for process in training_workers():
                if process.pid not in others:
                    process.kill()
                    killed.append(process.pid)
                    return
        time.sleep(0.02)


@pytest.mark.parametrize(
    "step",
    [
        8,
        pytest.param(3, marks=pytest.mark.cluster),
        *(pytest.param(step, marks=pytest.mark.slow) for step in KILLED_LATER),
    ],
)
def test_a_killed_worker_changes_nothing(
    undisturbed: Summary, settings: Settings, step: int
) -> None:
    """Final weights and momenta are bit for bit those of the run that nothing happened to."""
    disturbed = override(settings, {"name": "disturbed", **LONG})
    metrics, killed = Path(settings.storage) / "disturbed" / "metrics.jsonl", list[int]()
    killer = threading.Thread(target=kill_a_worker_after, args=(metrics, step, killed))
    killer.start()
    survivor = pretrain(disturbed, register=False)
    killer.join()
    assert killed, "the run ended before its worker could be killed"
    assert_same_checkpoint(undisturbed, survivor)
    assert survivor.stream_digest == undisturbed.stream_digest
    history = MlflowClient(survivor.paths["mlflow"]).get_metric_history(
        survivor.run_id, "train/loss"
    )
    assert [metric.step for metric in history] == list(range(1, 61))


@pytest.mark.cluster
def test_a_run_goes_on_with_the_same_data_on_another_number_of_workers(
    undisturbed: Summary, settings: Settings
) -> None:
    """Stopped by the loss of a worker of two, finished by four."""
    first = override(settings, {"name": "moved", **LONG, "scaling.max_failures": 0})
    metrics, killed = Path(settings.storage) / "moved" / "metrics.jsonl", list[int]()
    killer = threading.Thread(target=kill_a_worker_after, args=(metrics, 8, killed))
    killer.start()
    with pytest.raises(RunFailedError, match="the same command continues it"):
        pretrain(first, register=False)
    killer.join()
    moved = pretrain(override(first, {"scaling.workers": 4}), register=False)
    assert moved.stream_digest == undisturbed.stream_digest
    losses = [read_history(Path(s.paths["metrics"]))["train/loss"] for s in (undisturbed, moved)]
    np.testing.assert_allclose(list(losses[1].values()), list(losses[0].values()), rtol=1e-2)


def test_a_cluster_that_is_too_small_is_named_before_anything_starts(settings: Settings) -> None:
    crowded = replace(settings, scaling=replace(settings.scaling, workers=4, cpus_per_worker=1))
    with pytest.raises(LaunchError, match="make 5 CPUs; the cluster has 4"):
        pretrain(crowded)


@pytest.mark.slow
def test_workers_keep_the_best_and_end_by_patience(settings: Settings) -> None:
    """As the scores that were measured demand, however they come out."""
    changes = {
        "name": "patient", "training.patience": 1, "training.probe_every_epochs": 0.5,
        "training.checkpoint_every_epochs": 2.5, "training.average_decay": 0.9,
        "schedule.epochs": 5,
    }  # fmt: skip
    summary = pretrain(override(settings, changes), register=False)
    scores = read_history(Path(summary.paths["metrics"]))["validation/score"]
    best, last = 0, summary.total_steps
    for step in range(1, summary.total_steps + 1):
        if best and scores[step] <= scores[best]:
            last = step
            break
        best = step
    assert (summary.steps, summary.is_finished) == (last, True)
    assert summary.best == {"step": best, "score": scores[best]}
    kept = Path(summary.paths["best"])
    assert verify_checkpoint(kept)["step"] == best
    assert "average.safetensors" in {file.name for file in kept.iterdir()}
    assert [folder.name for folder in kept.parent.iterdir()] == [kept.name]
    assert pretrain(override(settings, changes), register=False).steps == last
