"""A sweep as its command: killed, interrupted, and gone on with, beside another one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bt_ray.config import Settings, override, to_json

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]


def start(settings: Path, name: str) -> "subprocess.Popen[str]":
    """The command, from a settings file, with one short trial after the other."""
    return subprocess.Popen(
        [sys.executable, "-m", "pipelines.sweep", "redundancy_weight", str(settings),
         "--name", name, "--trials", "4", "--at-once", "1", "--seeds", "1", "--pruning", "none"],
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def wait_for(folder: Path, pattern: str, count: int, process: "subprocess.Popen[str]") -> None:
    """Until so many files are there."""
    deadline = time.monotonic() + 120
    while len(list(folder.glob(pattern))) < count:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def told(process: "subprocess.Popen[str]", code: int) -> dict[str, Any]:
    """Its last line, once it has ended with this code."""
    out, err = process.communicate(timeout=200)
    assert process.returncode == code, err
    return json.loads(out.splitlines()[-1]) if out else {}


def test_killed_then_interrupted_then_finished(small_settings: Settings, tmp_path: Path) -> None:
    """No finished trial is run twice, those under way are gone on with."""
    file = tmp_path / "given.json"
    changes = {"scaling.workers": 0, "schedule.epochs": 24, "training.probe_every_epochs": 4}
    file.write_text(to_json(override(small_settings, changes)))
    folder = tmp_path / "sweeps" / "redundancy_weight-one"

    first = start(file, "one")
    wait_for(folder, "trials/*.json", 1, first)
    wait_for(folder, "runs/*-001/local/checkpoint_*", 1, first)
    first.kill()
    first.wait()
    kept = (folder / "trials" / "000.json").stat().st_mtime_ns

    second, other = start(file, "one"), start(file, "other")
    wait_for(folder, "trials/*.json", 2, second)
    wait_for(folder, "runs/*-002/local/checkpoint_*", 1, second)
    second.send_signal(signal.SIGINT)
    assert told(second, 130) == {}
    assert len(list(folder.glob("trials/*.json"))) == 2

    one, two = told(start(file, "one"), 0), told(other, 0)
    assert (folder / "trials" / "000.json").stat().st_mtime_ns == kept
    for found in (one, two):
        assert [trial["number"] for trial in found["trials"]] == [0, 1, 2, 3]
        assert {trial["state"] for trial in found["trials"]} == {"finished"}
        assert {trial["steps"] for trial in found["trials"]} == {48}
    metrics = (folder / "runs" / "redundancy_weight-one-002" / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in metrics.splitlines()]
    steps = [line["step"] for line in lines if "train/loss" in line]
    assert steps.count(1) == 1  # it did not begin again
    assert one["paths"]["sweep"] == str(folder)
