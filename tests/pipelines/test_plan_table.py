"""`--dry-run --on` says what a run will be on hardware that is not here, and starts nothing."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from pipelines import pretrain


def plan(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str, dict[str, Any]]:
    """Exit code, what people read, and the line of JSON of `pretrain ARGUMENTS`."""
    monkeypatch.setattr(sys, "argv", ["pretrain", *arguments])
    monkeypatch.setenv("COLUMNS", "160")
    with pytest.raises(SystemExit) as ended:
        pretrain.main()
    shown = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, shown.err, json.loads(shown.out) if shown.out else {}


def test_without_images_imagenets_are_assumed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    code, words, record = plan(
        monkeypatch, capsys, "digits", "--dry-run", "--on", "16 V100, 100GbE"
    )
    assert code == 0, words
    assert list(tmp_path.iterdir()) == []
    assert record["images"] == {"count": 1_281_167, "bytes": 110_000, "assumed": True}
    assert record["workers"] == 16
    assert record["steps"] == 30 * (1_281_167 // 256)
    ours, plain = record["predictions"].values()
    assert record["step_s"] == ours["step_s"] <= plain["step_s"]
    assert record["by_rdma"]["step_s"] <= record["step_s"]
    assert record["hours"] == pytest.approx(record["steps"] * record["step_s"] / 3600)
    assert record["by_half"] is None  # launches take longest
    assert record["fits"]
    for said in ("gradients' sum", "2 nodes of 8 V100", "Assumed", "By RDMA", "scaling.workers=16"):
        assert said in words, words


def test_images_that_are_named_are_counted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, words, record = plan(
        monkeypatch, capsys, "digits", "--dry-run", "--on", "1 A100", "--data.train", "digits:test"
    )
    assert code == 0, words
    assert record["images"]["count"] == 360
    assert record["steps"] == 30
    assert record["by_rdma"] is None


def test_where_the_network_takes_longest_half_gradients_are_tried(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, words, record = plan(
        monkeypatch, capsys, "digits", "--dry-run", "--on", "16 V100, 10GbE",
        "--model.projector-widths", "4096", "4096",
    )  # fmt: skip
    assert code == 0, words
    assert record["limit"] == "network"
    assert record["by_half"]["step_s"] < record["step_s"]
    assert "With --training.gradient-dtype fp16 this run takes" in words


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["digits", "--on", "8 V100"], "add --dry-run"),
        (["digits", "--dry-run", "--on", "8 V101"], "did you mean V100"),
        (["digits", "--dry-run", "--on", "24 V100, 25GbE"], "must be divisible"),
        (
            ["cifar10", "--dry-run", "--on", "8 V100", "--training.precision", "bf16"],
            "a V100 has none; use fp16",
        ),
        (
            ["digits", "--dry-run", "--on", "1 X (fp16 1 TFLOP/s, 1 TB/s, 0.5 GB)"],
            "It does not fit: a worker needs about",
        ),
        (["digits", "--dry-run", "--on", "1 V100", "--data.train", "nowhere"], "nowhere"),
    ],
)
def test_what_stands_against_it_is_said(
    arguments: list[str], sentence: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    code, words, _ = plan(monkeypatch, capsys, *arguments)
    assert code == 2
    assert sentence in words
