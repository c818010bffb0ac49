"""`pipelines.show views` writes a picture of a preset's views, and nothing else."""

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from bt_ray.config import to_json
from bt_ray.presets import preset
from pipelines import show


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", ["show", *arguments])
    show.main()


@pytest.mark.parametrize("start", ["digits", "a run's settings"])
def test_a_preset_s_views_are_drawn_without_shards(
    start: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if start != "digits":
        start = str(tmp_path / "settings.json")
        Path(start).write_text(to_json(preset("digits")))
    file, storage = tmp_path / "sheet.png", tmp_path / "runs"
    flags = ("--out", str(file), "--storage", str(storage), "--images", "2", "--pairs", "1")
    run(monkeypatch, "views", start, *flags, "--views-preset", "simclr")
    told = json.loads(capsys.readouterr().out)
    assert told["paths"] == {"views": str(file)}
    assert told["images"] == 2
    with Image.open(file) as sheet:
        assert sheet.format == "PNG"
    assert not storage.exists()


@pytest.mark.parametrize("arguments", [(), ("views",), ("view", "digits"), ("views", "--out", "x")])
def test_how_it_is_used_is_told(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        run(monkeypatch, *arguments)
    assert left.value.code == 2
    assert "usage: python -m pipelines.show views {digits" in capsys.readouterr().err


def test_a_sheet_without_images_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(monkeypatch, "views", "digits", "--images", "0")
    assert "images=0 must be at least 1" in capsys.readouterr().err
