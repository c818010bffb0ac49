"""Encoders of any origin go through the commands, to the same representations."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.data.pictures import encoded, write_folder

OWN = """
from torch import nn

def make_encoder(channels, image_px):
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.GELU(), nn.Dropout(0.1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )
"""
ENCODERS = {
    "own": ("their_nets:make_encoder",),
    "transformer": (
        "timm:vit_tiny_patch16_224", "--model.patch-px", "4", "--optimizer.kind", "adamw",
    ),
    "convnext": ("timm:convnext_atto", "--model.patch-px", "1", "--model.drop-path", "0.1"),
    "activated-norms": ("timm:mobilenetv3_small_050",),
    "torchvision": ("torchvision:shufflenet_v2_x0_5",),
}  # fmt: skip


def command(folder: Path, pipeline: str, *arguments: str) -> dict[str, Any]:
    """Runs a pipeline in a folder: its last line."""
    ran = subprocess.run(
        [sys.executable, "-m", f"pipelines.{pipeline}", *arguments],
        capture_output=True, text=True, check=False, cwd=folder,
        env=os.environ | {"COLUMNS": "10000", "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_of_any_origin_goes_through_the_commands(tmp_path: Path, name: str) -> None:
    (tmp_path / "their_nets.py").write_text(OWN)
    images, held_out = (
        write_folder(
            tmp_path / part,
            {
                f"{kind}/{i}.png": encoded(100 * number + i, size=(20, 20), kind="PNG")
                for number, kind in enumerate(("cat", "dog"), first) for i in range(16)
            },
        )
        for part, first in (("images", 0), ("held out", 5))
    )  # fmt: skip
    encoder, *more = ENCODERS[name]
    order = (
        "images", "--name", "any", "--storage", "runs", "--data.train", images,
        "--data.test", held_out, "--data.global-batch", "16", "--views.image-px", "16",
        "--schedule.epochs", "1", "--schedule.warmup-epochs", "0", "--scaling.workers", "0",
        "--model.encoder", encoder, "--model.projector-widths", "32", "32", *more,
    )  # fmt: skip
    ahead = command(tmp_path, "pretrain", *order, "--dry-run")
    assert not ahead["problems"]
    run = command(tmp_path, "pretrain", *order)
    assert (run["steps"], run["model_version"]) == (2, "barlow-any/1")
    assert "knn_top1" in command(tmp_path, "evaluate", "knn", "runs/any")["scores"]
    command(tmp_path, "export", "runs/any", "out")
    assert len(list((tmp_path / "out").glob("encoder.*"))) == 4, "each was read back and compared"
    vectors = command(tmp_path, "embed", images, "vectors", "--model", "runs/any", "--workers=0")
    assert vectors["images"] == 32
    registered = command(
        tmp_path, "embed", images, "again", "--model", "models:/barlow-any/1", "--workers=0"
    )
    assert registered["images"] == 32
    command(tmp_path, "report", "runs/any", "--output", "report.html")
    assert (tmp_path / "report.html").stat().st_size > 10_000
