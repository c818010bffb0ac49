"""Preparing when a run starts: shared out if there is much to do, and never begun twice."""

import json
import logging
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psutil
import pytest

from bt_ray.config import Settings, override
from bt_ray.data.preparation import parallel, runner
from bt_ray.data.preparation import prepare as preparing
from bt_ray.data.preparation.prepare import prepare_data
from bt_ray.data.preparation.runner import open_runner
from bt_ray.data.preparation.tasks import Task, one_after_the_other
from bt_ray.data.preparation.write import write_shards
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.sources import open_source
from bt_ray.errors import DataError
from bt_ray.presets import preset
from pipelines import prepare as command
from tests.data.pictures import encoded, imagenet_train, write_folder
from tests.data.preparation.test_preparation import contents, stop_after

ROOT = Path(__file__).parents[3]
_BYTES_IN_HALF_A_GB = 2**29


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two row groups of five."""
    monkeypatch.setattr("bt_ray.data.preparation.job._ROWS_PER_SHARD", 10)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A run on a folder of thirty-three images, in four shards."""
    folder = tmp_path / "my images"
    write_folder(folder, {f"{i:02d}.jpg": encoded(i) for i in range(33)})
    return override(preset("digits"), {
        "data.train": str(folder), "data.test": None, "data.rows_per_row_group": 5,
        "storage": str(tmp_path / "runs"),
    })  # fmt: skip


@contextmanager
def _as_if_joined(cpus: int | None) -> Iterator[None]:
    yield


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Every source is large, and the cluster, which all reach, counts the tasks that it is given.

    It runs them here.
    """
    given: list[int] = []

    def run_all(tasks: Sequence[Task], *, cpus: int | None = None) -> Iterator[str]:
        given.append(len(tasks))
        return one_after_the_other(tasks)

    monkeypatch.setattr(runner, "_LARGE_BYTES", 0)
    monkeypatch.setattr(parallel, "joined", _as_if_joined)
    monkeypatch.setattr(parallel, "nodes_without", lambda source, folder: [])
    monkeypatch.setattr(parallel, "run_on_cluster", run_all)
    return given


def test_a_large_source_is_the_clusters_and_a_small_one_this_processs(
    settings: Settings, joined: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare_data(settings)
    assert joined == [4]
    prepare_data(settings)  # now they are shards
    assert joined == [4]
    monkeypatch.undo()
    with open_runner(open_source(settings.data.train)) as run_all:
        assert run_all is one_after_the_other


@pytest.mark.parametrize("count", [0, 2])
def test_a_killed_preparation_is_continued_by_the_next_start(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Below the storage, where no run takes what is unfinished for shards; and it is shown."""
    whole = tmp_path / "whole"
    write_shards(open_source(settings.data.train), str(whole), rows_per_row_group=5)
    with monkeypatch.context() as patch:
        patch.setattr(runner, "one_after_the_other", stop_after(count))
        with pytest.raises(KeyboardInterrupt):
            prepare_data(settings)
    [root] = [path for path in (tmp_path / "runs" / "shards").iterdir() if path.is_dir()]
    assert not (root / "manifest.json").exists()
    finished = {path: path.stat().st_mtime_ns for path in root.glob("shard-*.parquet")}
    assert len(finished) == count
    told: list[tuple[str, int, int]] = []
    again = prepare_data(settings, lambda *words: told.append(words))
    assert again.data.train == str(root)
    assert contents(root) == contents(whole)
    assert all(path.stat().st_mtime_ns == before for path, before in finished.items())
    assert told[0] == ("written", 10 * count, 33)
    assert told[-1] == ("written", 33, 33)


def test_two_runs_that_start_at_once_prepare_once(
    settings: Settings, joined: list[int], monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """The second one waits, says so, and finds shards."""
    begun, may_end = threading.Event(), threading.Event()

    def slowly(tasks: Sequence[Task], *, cpus: int | None = None) -> Iterator[str]:
        joined.append(len(tasks))
        begun.set()
        may_end.wait(60)
        return one_after_the_other(tasks)

    monkeypatch.setattr(parallel, "run_on_cluster", slowly)
    found: list[str] = []
    runs = [
        threading.Thread(target=lambda: found.append(prepare_data(settings).data.train))
        for _ in range(2)
    ]
    with caplog.at_level(logging.WARNING):
        runs[0].start()
        assert begun.wait(60)
        runs[1].start()
        deadline = time.monotonic() + 60
        while "Waiting for another process" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.01)
        may_end.set()
        for run in runs:
            run.join()
    assert "Waiting for another process that prepares" in caplog.text
    assert joined == [4]
    assert len(found) == 2
    assert found[0] == found[1]
    assert ShardSet.open(found[0]).manifest.num_rows == 33


def test_what_the_cluster_does_not_reach_is_refused_with_the_command_that_does_it(
    settings: Settings, joined: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given on another machine, that command leaves what the run looks for."""
    monkeypatch.setattr(parallel, "nodes_without", lambda source, folder: ["10.0.0.7"])
    monkeypatch.setattr(runner, "_MOST_ALONE_BYTES", 0)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with pytest.raises(DataError, match=r"10\.0\.0\.7 cannot read it, or cannot reach") as refused:
        prepare_data(settings)
    line = str(refused.value).split("`")[1]
    words = shlex.split(line)
    assert words[:8] == ["env", "-u", "RAY_ADDRESS", "-u", "RAY_JOB_ID", "python", "-m",
                         "pipelines.prepare"]  # fmt: skip
    assert words[8] == settings.data.train
    monkeypatch.setattr(runner, "_LARGE_BYTES", _BYTES_IN_HALF_A_GB)
    monkeypatch.setattr(sys, "argv", words[7:])
    command.main()
    monkeypatch.setattr(runner, "_LARGE_BYTES", 0)
    assert prepare_data(settings).data.train == words[9]
    assert joined == []


def test_what_the_cluster_does_not_reach_is_prepared_here_if_that_takes_minutes(
    settings: Settings, joined: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "nodes_without", lambda source, folder: ["10.0.0.7"])
    assert ShardSet.open(prepare_data(settings).data.train).manifest.num_rows == 33
    assert joined == []


def test_a_long_preparation_is_logged_where_nobody_shows_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        prepare_data(settings)
        assert caplog.text == ""
        monkeypatch.setattr(preparing, "_LOG_EVERY_S", 0.0)
        prepare_data(override(settings, {"data.rows_per_row_group": 4}))
    assert "Preparing the images: 8 of 33 written." in caplog.text


@pytest.mark.ray
def test_two_tasks_run_beside_each_other_in_processes_of_the_cluster(
    cluster: None, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of the first two ends only when the other has begun; none runs in this process."""
    (tmp_path / "pids").mkdir()
    told, run_on_cluster = str(tmp_path / "pids"), parallel.run_on_cluster

    def told_of(task: Task) -> str:
        Path(told, str(os.getpid())).touch()
        deadline = time.time() + 100
        while len(list(Path(told).iterdir())) < 2 and time.time() < deadline:
            time.sleep(0.05)
        return task()

    def run_all(tasks: Sequence[Task], *, cpus: int | None = None) -> Iterator[str]:
        return run_on_cluster([partial(told_of, task) for task in tasks], cpus=cpus)

    monkeypatch.setattr(runner, "_LARGE_BYTES", 0)
    monkeypatch.setattr(parallel, "run_on_cluster", run_all)
    assert ShardSet.open(prepare_data(settings).data.train).manifest.num_rows == 33
    pids = {path.name for path in Path(told).iterdir()}
    assert len(pids) >= 2
    assert str(os.getpid()) not in pids


@pytest.mark.ray
def test_nodes_are_asked_for_an_image_and_for_the_destination(
    cluster: None, settings: Settings, tmp_path: Path
) -> None:
    source = open_source(settings.data.train)
    assert parallel.nodes_without(source, tmp_path) == []
    assert len(parallel.nodes_without(source, tmp_path / "nowhere")) == 1
    for image in Path(settings.data.train).iterdir():
        image.unlink()
    assert len(parallel.nodes_without(source, tmp_path)) == 1


PROGRAM = """
import json, sys
import bt_ray.data.preparation.job, bt_ray.data.preparation.runner
bt_ray.data.preparation.job._ROWS_PER_SHARD = 200
bt_ray.data.preparation.runner._LARGE_BYTES = 0
from bt_ray.config import override
from bt_ray.data.preparation.prepare import prepare_data
from bt_ray.presets import preset
import ray
told = []
settings = prepare_data(override(preset("digits"), {
    "data.train": sys.argv[1], "data.test": None, "storage": sys.argv[2],
    "data.rows_per_row_group": 50, "scaling.workers": 0,
}), lambda *words: told.append(words))
print(json.dumps({"root": settings.data.train, "told": told, "ray": ray.is_initialized()}))
"""


@pytest.mark.cluster
def test_after_kill_9_the_same_command_continues_in_processes_of_a_cluster_that_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the run itself is to do without Ray."""
    monkeypatch.setattr("bt_ray.data.preparation.job._ROWS_PER_SHARD", 200)
    imagenet_train(tmp_path / "train.tar", classes=20, each=200)
    whole = tmp_path / "whole"
    write_shards(open_source(str(tmp_path / "train.tar")), str(whole), rows_per_row_group=50)
    arguments = [sys.executable, "-c", PROGRAM, str(tmp_path / "train.tar"), str(tmp_path / "runs")]
    process = subprocess.Popen(
        arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.time() + 200
    pattern = "runs/shards/*/_unfinished/shard-*.json"
    while len(list(tmp_path.glob(pattern))) < 3 and time.time() < deadline:
        time.sleep(0.002)
    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for member in family:
        member.send_signal(signal.SIGKILL)
    process.wait()
    records = {path.stem for path in tmp_path.glob(pattern)}
    [root] = [path for path in (tmp_path / "runs" / "shards").iterdir() if path.is_dir()]
    before = {name: (root / f"{name}.parquet").stat().st_mtime_ns for name in records}
    assert 3 <= len(before) < 20
    again = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=True)
    told = json.loads(again.stdout)
    assert told["told"][0] == ["written", 200 * len(before), 4000]
    assert told["told"][-1] == ["written", 4000, 4000]
    assert told["root"] == str(root)
    assert not told["ray"]
    assert all((root / f"{name}.parquet").stat().st_mtime_ns == t for name, t in before.items())
    assert contents(root) == contents(whole)
