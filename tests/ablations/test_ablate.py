"""Ablations are made once, run by run, whatever happens on the way, and say what they found."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from bt_ray.ablations import train
from bt_ray.ablations.ablate import Plan, Row, ablate
from bt_ray.ablations.paper import build_study
from bt_ray.ablations.progress import StudyProgress
from bt_ray.ablations.result import key_of, read_result
from bt_ray.ablations.show import write_study
from bt_ray.ablations.study import Axes, Case, Study
from bt_ray.ablations.train import RESULTS, Order, train_one
from bt_ray.config import Settings, override, to_json
from bt_ray.errors import DataError, SettingsError

pytestmark = pytest.mark.run

ROOT = Path(__file__).parents[2]


@pytest.fixture
def settings(small_settings: Settings) -> Settings:
    return override(
        small_settings,
        {
            "scaling.workers": 0,
            "schedule.epochs": 1,
            "training.probe_every_epochs": 1,
            "training.checkpoint_every_epochs": 1,
        },
    )


class Here(Executor):
    """Makes each run in this process, which has imported already what a new one would import."""

    def submit(self, run: Callable[..., Any], /, *arguments: Any, **_: Any) -> Future[Any]:
        made: Future[Any] = Future()
        made.set_result(run(*arguments))
        return made


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "ProcessPoolExecutor", lambda *_, **__: Here())


def two_values(settings: Settings) -> Study:
    return build_study("figure5", settings, Axes(values=(0.005, 0.05)))


def make(
    study: Study, settings: Settings, folder: Path, plan: Plan
) -> tuple[tuple[Row, ...], list[StudyProgress]]:
    told: list[StudyProgress] = []
    return ablate(study, settings, plan, folder, on_progress=told.append), told


@pytest.mark.usefixtures("here")
def test_runs_are_made_once_and_shared_by_studies(settings: Settings, tmp_path: Path) -> None:
    """Again: none; λ = 5e-3 is the baseline of Table 6, too."""
    rows, told = make(two_values(settings), settings, tmp_path, Plan(seeds=2))
    assert [len(row.results) for row in rows] == [2, 2]
    assert [result.seed for result in rows[0].results] == [0, 1]
    assert [(p.done, p.total, p.is_new) for p in told] == [(k, 4, True) for k in (1, 2, 3, 4)]
    assert all(p.seconds_left is not None for p in told)
    assert {"knn_top1", "linear_top1", "linear_top5", "knn_top1_untrained"} <= set(
        rows[0].results[0].scores
    )
    again, told = make(two_values(settings), settings, tmp_path, Plan(seeds=2))
    assert again == rows
    assert not any(p.is_new for p in told)
    client = MlflowClient(f"sqlite:///{settings.storage}/mlflow.db")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert [(run.info.run_name, run.info.status) for run in parents] == [
        ("figure5-small", "FINISHED")
    ]
    other = override(settings, {"name": "another", "scaling.threads_per_worker": None})
    _, told = make(
        Study(name="t", title="T", cases=(Case(label="Baseline"),)), other, tmp_path, Plan(seeds=1)
    )
    assert [p.is_new for p in told] == [False]


@pytest.mark.usefixtures("here")
def test_the_rate_is_searched_on_held_out_images(settings: Settings, tmp_path: Path) -> None:
    """Of each batch size and method; the winner is then trained on all images."""
    axes = Axes(values=(64,), rates=(1e-4, 0.2), methods=("byol",))
    study = build_study("figure2", settings, axes)
    (row,), told = make(study, settings, tmp_path, Plan(seeds=1, images=200))
    assert [p.total for p in told] == [3, 3, 3]
    assert [result.num_images for result in (*row.searched, *row.results)] == [180, 180, 200]
    best = max((0, 1), key=lambda number: row.searched[number].scores["knn_top1"])
    assert row.chosen == {"optimizer.weight_rate": (1e-4, 0.2)[best]}
    assert row.results[0].settings["optimizer.weight_rate"] == (1e-4, 0.2)[best]
    assert row.results[0].settings["objective.method"] == "byol"
    files = write_study(study, settings, Plan(seeds=1, images=200), (row,), tmp_path)
    assert "| BYOL: 64 |" in files["md"].read_text()
    assert "batch 128" not in files["md"].read_text()  # the settings', which no case has
    assert f"weight_rate {row.chosen['optimizer.weight_rate']:g}" in files["md"].read_text()
    record = json.loads(files["json"].read_text())["rows"][0]
    assert [found["changes"] for found in record["searched"]] == list(row.case.candidates)


@pytest.mark.usefixtures("here")
def test_it_is_shown_beside_the_paper(settings: Settings, tmp_path: Path) -> None:
    """Markdown with published scores and untrained ones, a picture, JSON."""
    study = build_study("table6", settings, Axes())
    rows, _ = make(study, settings, tmp_path, Plan(seeds=1))
    files = write_study(study, settings, Plan(seeds=1), rows, tmp_path)
    text = files["md"].read_text()
    head, _, baseline, *_ = text.splitlines()[2:]
    assert head.split(" | ")[1:3] == ["published top-1", "published top-5"]
    score = 100 * rows[0].results[0].scores["knn_top1"]
    assert baseline.startswith("| Baseline | 71.4 | 90.2 |")
    assert f"| {score:.1f} |" in baseline
    assert "first weights, untrained" in text
    assert "conv4, projector 64-64, 1 epochs of 360 images, batch 128" in text
    assert files["png"].read_bytes().startswith(b"\x89PNG")
    assert len(json.loads(files["json"].read_text())["rows"]) == 4


@pytest.mark.usefixtures("here")
def test_a_loss_that_is_not_finite_is_a_result(settings: Settings, tmp_path: Path) -> None:
    """It is kept with its reason, and shown."""
    wild = override(settings, {"optimizer.weight_rate": 1e30, "optimizer.bias_rate": 1e30})
    study = Study(name="wild", title="Wild", cases=(Case(label="Wild"),))
    rows, _ = make(study, wild, tmp_path, Plan(seeds=1))
    (result,) = rows[0].results
    assert result.failure is not None
    assert "loss" in result.failure
    text = write_study(study, wild, Plan(seeds=1), rows, tmp_path)["md"].read_text()
    assert f"Wild, seed 0: {result.failure}" in text


def test_what_shapes_no_result_is_no_part_of_its_key(settings: Settings) -> None:
    """Names, places and workers are not; the images are, by their content."""
    key = key_of(settings, "knn")
    for changes in ({"name": "b"}, {"storage": "elsewhere"}, {"scaling.workers": 1}):
        assert key_of(override(settings, changes), "knn") == key
    swapped = {"data.train": settings.data.test, "data.test": settings.data.train}
    for changes in ({"training.seed": 1}, {"objective.redundancy_weight": 0.1}, swapped):
        assert key_of(override(settings, changes), "knn") != key
    assert key_of(settings, "knn and fast linear") != key


def test_a_file_of_other_settings_or_none_is_not_taken(settings: Settings, tmp_path: Path) -> None:
    """Another default under the same key: made again. A broken file: a sentence."""
    order = Order(settings=settings, linear=None)
    result = train_one(order, tmp_path, None)
    assert read_result(tmp_path, order.key, settings) == result
    file = tmp_path / f"{order.key}.json"
    file.write_text(file.read_text().replace('"schedule.epochs": 1', '"schedule.epochs": 2'))
    assert read_result(tmp_path, order.key, settings) is None
    file.write_text("{")
    with pytest.raises(DataError, match="remove it, and its run is made again"):
        read_result(tmp_path, order.key, settings)


def test_more_images_than_there_are_is_refused(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--images 400: there are 360 training images"):
        make(two_values(settings), settings, tmp_path, Plan(images=400))
    with pytest.raises(SettingsError, match="--seeds 0 must be at least 1"):
        Plan(seeds=0)


@pytest.mark.cluster
@pytest.mark.slow
def test_killed_and_continued(settings: Settings, tmp_path: Path) -> None:
    """Two at a time; after kill -9 the same command makes what is missing, and that alone."""
    results = tmp_path / "ablations" / RESULTS
    file = tmp_path / "settings.json"
    file.write_text(to_json(settings))
    command = [
        sys.executable, "-m", "pipelines.ablate", "figure5", str(file), "--values", "0.005", "0.02",
        "0.05", "--seeds", "1", "--at-once", "2",
    ]  # fmt: skip
    first = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    while not list(results.glob("*.json")):
        assert first.poll() is None
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    before = {found: found.stat().st_mtime_ns for found in results.glob("*.json")}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "was there" in done.stderr
    assert {found: found.stat().st_mtime_ns for found in before} == before
    assert len(list(results.glob("*.json"))) == 3
    scores = json.loads(done.stdout.splitlines()[-1])["scores"]
    assert set(scores) == {
        f"{weight}: {name}" for weight in ("0.005", "0.02", "0.05")
        for name in ("knn_top1", "linear_top1", "rankme")
    }  # fmt: skip
