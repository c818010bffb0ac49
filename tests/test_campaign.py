"""What `benchmarks.faults` tells of a fault is what happened; a campaign goes on where it was."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.faults import Benchmark
from benchmarks.faults_clock import _LIBRARY, clock_ahead
from benchmarks.faults_kills import Moment, _child
from benchmarks.faults_list import FAULTS
from benchmarks.faults_progress import Progress
from benchmarks.faults_results import Result, Results, whole
from benchmarks.faults_run import measure
from bt_ray.errors import RunFailedError, SettingsError
from bt_ray.json_files import write_json

NAMES = {
    *("worker-killed", "rank0-killed", "node-killed", "controller-killed", "driver-killed"),
    *("coordinator-killed", "worker-stopped", "preempted", "network-cut-20s", "network-cut-120s"),
    *("disk-full", "storage-away-60s", "mlflow-away-60s", "mlflow-away", "clock-off"),
}


def test_every_promise_has_its_fault() -> None:
    assert set(FAULTS) >= NAMES
    none_lost = {name for name, fault in FAULTS.items() if not fault.loses}
    assert {"preempted", "network-cut-20s", "mlflow-away", "clock-off"} <= none_lost


def test_a_missing_fault_counts_as_failed() -> None:
    good = vars(Result(True, "recovered", steps_lost=4))
    record = whole({"a": good, "b": good | {"as_promised": False}}, ("a", "b", "c", "d"))
    assert record["ratio"] == 0.25
    assert record["faults"]["d"]["outcome"] == "failed: missing"
    assert record["faults"]["a"]["steps_lost"] == 4


def test_results_are_those_of_one_seed_and_one_code(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    Results(file, "seed 0").add("node-killed", Result(True, "recovered"))
    Results(file, "seed 0").add("disk-full", Result(False, "failed: it hangs"))
    assert set(Results(file, "seed 0").by_name) == {"node-killed", "disk-full"}
    assert Results(file, "seed 1").by_name == {}


def test_a_name_that_no_fault_has_is_refused() -> None:
    assert Benchmark(only="disk-full,clock-off").names() == ("disk-full", "clock-off")
    with pytest.raises(SettingsError, match="no fault is called disk; there are worker-killed"):
        Benchmark(only="disk").names()


def test_steps_that_come_again_are_lost() -> None:
    story = [(1, 0.0), (2, 1.0), (3, 2.0), (4, 3.0), (3, 13.0), (4, 13.5), (5, 14.0), (6, 14.5)]
    told = measure(story, fault_at=2.5)  # step 4 was under way
    assert (told.steps_lost, told.most_lost) == (2, 2)
    assert told.next_step_s == 10.5
    assert (told.rate_before, told.rate_after) == (1.0, 2.0)


def test_a_pause_without_a_restart_loses_nothing() -> None:
    story = [(step, float(step)) for step in range(1, 6)]
    story += [(step, step + 20.0) for step in range(6, 9)]
    told = measure(story, fault_at=5.2)
    assert (told.steps_lost, told.next_step_s) == (0, pytest.approx(20.8))
    assert measure(story[:5], fault_at=2.1).next_step_s == pytest.approx(0.9)


def test_each_of_two_faults_has_its_part_of_the_story() -> None:
    story = [(1, 0.0), (2, 1.0), (1, 10.0), (2, 11.0), (3, 12.0), (2, 30.0), (3, 31.0)]
    assert measure(story, fault_at=1.1, end=12.5).steps_lost == 2
    assert measure(story, fault_at=12.5).next_step_s == 17.5


def test_a_process_is_killed_at_a_call_of_its_phase(tmp_path: Path) -> None:
    def job(moment: Moment) -> None:
        moment.watch()
        for number in range(3):
            write_json(tmp_path / f"{number}.json", number)

    assert _child(lambda: job(Moment())) == 0
    for file in tmp_path.iterdir():
        file.unlink()
    assert _child(lambda: job(Moment("start", 8))) == -signal.SIGKILL
    left = sorted(file.name for file in tmp_path.iterdir())
    assert left in (["0.json"], ["0.json", "1.json.new"])


def test_a_child_that_errs_says_why(tmp_path: Path) -> None:
    def job() -> None:
        raise RunFailedError("This is why.")

    assert _child(job, tmp_path / "log") == 1
    assert "RunFailedError: This is why." in (tmp_path / "log").read_text()


def test_progress_is_kept_for_the_next_part(tmp_path: Path) -> None:
    progress = Progress(tmp_path / "progress.json", "seed 3")
    progress.kills, progress.draws, progress.by_phase = 7, 9, {"save": 7}
    progress.write()
    assert Progress.read(tmp_path / "progress.json", "seed 3").record() == progress.record()
    assert Progress.read(tmp_path / "progress.json", "seed 4").kills == 0


@pytest.mark.skipif(
    not _LIBRARY.is_file() or shutil.which("cc") is None, reason="needs libfaketime and cc"
)
def test_a_clock_ahead_is_off_by_its_hours_and_waits_as_long_as_ever(tmp_path: Path) -> None:
    script = (
        "import threading, time; began = time.monotonic(); time.sleep(0.1)\n"
        "condition = threading.Condition()\n"
        "with condition: condition.wait(0.1)\n"
        "print(time.time(), time.monotonic() - began)"
    )
    env = {**os.environ, **clock_ahead(hours=1, folder=tmp_path)}
    done = subprocess.run(
        [sys.executable, "-S", "-c", script],
        env=env, capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    there, waited = map(float, done.stdout.split())
    assert there - time.time() == pytest.approx(3600, abs=30)
    assert 0.2 <= waited < 10
