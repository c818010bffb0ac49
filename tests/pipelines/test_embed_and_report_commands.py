"""The commands about vectors and reports: what they print, and what they refuse, in a sentence."""

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from bt_ray.config import Settings
from bt_ray.report.pictures import Detail
from tests.data.pictures import encoded, write_folder
from tests.embedding.test_embed import new_encoder
from tests.report.runs import finished_run


@pytest.fixture
def model(tmp_path: Path) -> list[str]:
    """A file of weights, named as on a command line."""
    file = tmp_path / "encoder.safetensors"
    save_file(new_encoder().encoder.state_dict(), file)
    return [f"--model={file}", "--architecture=conv4", "--image-px=8", "--workers=0"]


@pytest.fixture
def images(tmp_path: Path) -> str:
    return write_folder(
        tmp_path / "images", {f"c{i % 2}/{i:02d}.jpg": encoded(i) for i in range(9)}
    )


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a pipeline in this process: its exit code, its last line, what people read."""

    def run(pipeline: str, *arguments: str) -> tuple[int, dict[str, Any], str]:
        monkeypatch.setattr(sys, "argv", [pipeline, *arguments])
        code = 0
        try:
            import_module(f"pipelines.{pipeline}").main()
        except SystemExit as left:
            code = int(left.code or 0)
        printed = capsys.readouterr()
        assert printed.out.count("\n") == (code == 0)
        record = json.loads(printed.out) if printed.out else {}
        return code, record, " ".join(printed.err.split())

    return run


def test_images_are_embedded_and_looked_up(
    command: Any, model: list[str], images: str, tmp_path: Path
) -> None:
    """The image itself, when it is asked by its file; not so by its id."""
    write_folder(tmp_path / "images", {"c0/bad.jpg": b"a story"})
    out = str(tmp_path / "out")
    code, record, words = command("embed", images, out, *model)
    assert code == 0
    assert (record["images"], record["rejected"], record["features"]) == (9, 1, 256)
    assert record["paths"] == {"embeddings": out}
    assert "1 of 10 images cannot be decoded: rejected.jsonl" in words
    assert command("embed", images, out, *model)[1]["digest"] == record["digest"]

    file = str(tmp_path / "images" / "c1" / "03.jpg")
    code, record, words = command("neighbors", out, file, "c1/03.jpg", "--neighbors", "4")
    assert code == 0
    by_file, by_id = record["neighbors"][file], record["neighbors"]["c1/03.jpg"]
    assert by_file[0]["sample_id"] == "c1/03.jpg"
    assert [near["sample_id"] for near in by_file[1:]] == [n["sample_id"] for n in by_id[:3]]
    assert (len(by_file), len(by_id)) == (4, 4)
    assert "cosine" in words


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["{images}", "{new}", "--model={nothing}"], "is no encoder: give a run's folder"),
        (["{images}", "{images}"], "is not empty; give a new folder or remove it first"),
        (["{empty}", "{new}"], "There is no image below"),
        (["{nothing}", "{new}"], "There is no folder"),
        (["{images}", "{new}", "--rows-per-file=0"], "rows_per_file=0 must be at least 1"),
        (["{images}", "{new}", "--accelerator=gpu"], "needs a GPU, and there is none"),
        (["{images}", "{new}", "--architecture=conv6"], "does not hold a conv6"),
    ],
)
def test_what_cannot_be_embedded_is_said(
    command: Any,
    model: list[str],
    images: str,
    tmp_path: Path,
    arguments: list[str],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (tmp_path / "empty").mkdir()
    places = {name: str(tmp_path / name) for name in ("new", "nothing", "empty")}
    filled = [argument.format(images=images, **places) for argument in arguments]
    code, _, words = command("embed", *filled[:2], *model, *filled[2:])
    assert code == 2
    assert sentence in words
    assert not (tmp_path / "new" / "manifest.json").exists()


def test_what_cannot_be_looked_up_is_said(command: Any, images: str) -> None:
    code, _, words = command("neighbors", images, "c1/03.jpg")
    assert code == 2
    assert "holds no finished vectors" in words


def test_a_report_is_written(
    command: Any, small_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bt_ray.report.page._DETAILS", (Detail(64, 60, 2),))
    _, run = finished_run(small_settings)
    output = tmp_path / "pages" / "report.html"
    code, record, words = command(
        "report", "small", f"--storage={tmp_path}", f"--output={output}"
    )  # fmt: skip
    assert code == 0
    assert record["run_id"] == run.run_id
    assert record["paths"] == {"report": str(output)}
    assert record["bytes"] == output.stat().st_size > 10_000
    assert "small: Evaluations: none yet" in words


def test_a_run_that_is_not_there_is_said(command: Any, tmp_path: Path) -> None:
    output = tmp_path / "report.html"
    code, _, words = command("report", "nothing", f"--storage={tmp_path}", f"--output={output}")
    assert code == 2
    assert "There is no run 'nothing'" in words
    assert not output.exists()
