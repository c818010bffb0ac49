"""`python -m pipelines.export` as a user types it, for libraries of detectors."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch

from bt_ray.checkpoints.checkpoint import save_checkpoint
from bt_ray.config import Settings, override
from pipelines.export import main
from tests.states import build_state


@pytest.mark.run
@pytest.mark.parametrize(("encoder", "code"), [("resnet18", 0), ("conv4", 2)])
def test_backbones_of_detectors(
    small_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], encoder: str, code: int,
) -> None:  # fmt: skip
    settings = override(small_settings, {"model.encoder": encoder, "model.stem": "imagenet"})
    state = build_state(settings, torch.device("cpu"))
    save_checkpoint(tmp_path / "small" / "local" / "checkpoint_0", state, settings)
    arguments = [str(tmp_path / "small"), str(tmp_path / "out"), "--storage", str(tmp_path)]
    formats = ["--formats", "state_dict", "mmdet", "detectron2"]
    monkeypatch.setattr(sys, "argv", ["export", *arguments, *formats])
    monkeypatch.setitem(os.environ, "COLUMNS", "300")
    try:
        main()
        left = 0
    except SystemExit as end:
        left = int(end.code or 0)
    assert left == code
    out, err = capsys.readouterr()
    if code:
        assert "The format mmdet is of ResNets" in " ".join(err.split())
        return
    paths = json.loads(out.splitlines()[-1])["paths"]
    files = {"pth": "encoder.pth", "mmdet.pth": "encoder.mmdet.pth",
             "detectron2.pth": "encoder.detectron2.pth"}  # fmt: skip
    assert {kind: Path(path).name for kind, path in paths.items()} == files
    assert all(Path(path).is_file() for path in paths.values())
    assert "MODEL.RESNETS.DEPTH 18" in out + err
    assert "bgr_to_rgb=True" in out + err
