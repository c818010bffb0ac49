"""A folder with one of everything goes through the commands."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.data.everything import BROKEN, CLASSES, NUM_GOOD, write_everything
from tests.data.pictures import encoded, write_folder


def command(pipeline: str, *arguments: str) -> tuple[dict[str, Any], str]:
    """Runs a pipeline: its last line, and what people read."""
    ran = subprocess.run(
        [sys.executable, "-m", f"pipelines.{pipeline}", *arguments],
        capture_output=True, text=True, check=False, env=os.environ | {"COLUMNS": "10000"},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1]), ran.stderr


@pytest.mark.run
def test_a_folder_with_one_of_everything_goes_through_the_commands(tmp_path: Path) -> None:
    """What it passes over is said; its broken images are listed; all others are used."""
    images, shards, storage = (str(tmp_path / name) for name in ("[in] it", "shards", "runs"))
    aside = write_everything(Path(images))
    skip = ("--on-bad-image", "skip", "--max-bad-rate", "0.2", "--cpus", "0")
    record, words = command("prepare", images, shards, *skip)
    assert f"{NUM_GOOD + len(BROKEN)} images taken, {len(aside)} passed over" in words
    lines = Path(shards, "rejected.jsonl").read_text().splitlines()
    rejected = {json.loads(line)["sample_id"] for line in lines}
    assert set(BROKEN) <= rejected <= {*BROKEN, "dog [old] scans/notes.png"}
    assert record["images"] + len(rejected) == NUM_GOOD + len(BROKEN)

    held_out = write_folder(tmp_path / "held out", {
        f"{name}/{i}.jpg": encoded(200 + 10 * number + i, size=(48, 40))
        for number, name in enumerate(CLASSES) for i in range(8)
    })  # fmt: skip
    record, words = command(
        "pretrain", "digits", "--name", "mine", "--storage", storage, "--data.train", images,
        "--data.on-bad-image", "skip", "--data.test", held_out, "--data.global-batch", "16",
        "--data.rows-per-row-group", "16", "--schedule.epochs", "1",
        "--schedule.warmup-epochs", "0", "--scaling.workers", "0",
    )  # fmt: skip
    assert record["steps"] == record["total_steps"]
    run = str(Path(storage, "mine"))
    record, _ = command("evaluate", "knn", run, "--storage", storage, "--workers", "0")
    assert "top1" in json.dumps(record)
    record, _ = command("embed", images, str(tmp_path / "vectors"), "--model", run, "--workers=0")
    assert record["images"] + record["rejected"] == NUM_GOOD + len(BROKEN)
    page = tmp_path / "report.html"
    command("report", run, "--output", str(page))
    assert page.stat().st_size > 10_000
