"""`suggest` as a user types it, and the run that it leads to."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bt_ray.presets import starting_point
from tests.advice.scenes import encode, scene, two_classes
from tests.conftest import shared_zip


def run(cwd: Path, *arguments: str) -> tuple[dict[str, Any], str]:
    """Runs `python -m pipelines.…` in a folder: its last line, and what people read."""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", *arguments], capture_output=True, text=True, check=False, cwd=cwd,
        env=os.environ | {"COLUMNS": "200", "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


@pytest.mark.slow
def test_what_is_suggested_trains_as_it_stands(tmp_path: Path) -> None:
    train = two_classes(tmp_path / "birds" / "train", cat_again=encode(scene(3), quality=50))
    two_classes(tmp_path / "birds" / "test", each=6, first=500)
    record, words = run(tmp_path, "pipelines.suggest", "birds/train", "--hours", "0.001")
    settings = starting_point(str(tmp_path / "suggested.json"))
    assert (settings.name, settings.data.train) == ("birds", train)
    assert record["paths"]["settings"] == "suggested.json"
    assert record["seen"]["images"] == 25
    assert record["seen"]["near_duplicates"] == [["cat/3.jpg", "cat/again.jpg"]]
    assert record["steps"] == settings.schedule.epochs * record["steps_per_epoch"]
    assert record["problems"] == []
    for what in ("What was seen", "What is suggested", "What it will be", "show a picture again"):
        assert what in words
    assert sorted(path.name for path in tmp_path.iterdir()) == ["birds", "suggested.json"]
    trained, _ = run(tmp_path, "pipelines.pretrain", "suggested.json")
    assert trained["steps"] == record["steps"] > 0
    assert trained["scores"]["knn_top1"] is not None


@pytest.mark.run
def test_blood_smears_get_settings(tmp_path: Path) -> None:
    """Real images: all are as large, without labels, and two show one field at another focus."""
    with shared_zip("bccd-voc.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".jpg")]
        archive.extractall(tmp_path, names)
    folder = str((tmp_path / names[0]).parent)
    record, _ = run(tmp_path, "pipelines.suggest", folder, "--out", "blood.json")
    assert record["seen"]["images"] == len(names) == 364
    assert record["seen"]["sides_px"] == [480, 480, 480]
    assert record["seen"]["near_duplicates"] == [["BloodImage_00037.jpg", "BloodImage_00038.jpg"]]
    settings = starting_point(str(tmp_path / "blood.json"))
    assert (settings.model.encoder, settings.views.image_px) == ("conv6", 64)
    assert settings.data.global_batch == 64
