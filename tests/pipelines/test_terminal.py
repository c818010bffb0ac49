"""What a person sees: our words, and no library's; sentences, and no traces."""

import ast
import os
import shlex
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from rich.table import Table

from bt_ray.errors import RunFailedError, SettingsError
from pipelines import terminal
from pipelines.pretrain import print_summary
from pipelines.terminal import command, console, guarded, warn
from tests.pipelines.ours import foreign_lines
from tests.pipelines.test_commands import PYTHON, ROOT

HERE = ["--schedule.epochs", "2", "--schedule.warmup-epochs", "1", "--scaling.workers", "0"]
ODD = "/data/[old] :smile: [/] 'a\"b/\\"


@pytest.mark.cluster
def test_every_line_of_a_run_is_ours(tmp_path: Path) -> None:
    """Its MLflow store is new, its encoder is registered: that is when libraries talk most."""
    done = subprocess.run(
        [PYTHON, "-m", "pipelines.pretrain", "digits", *HERE, "--storage",
         str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env=os.environ | {"COLUMNS": "200"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    assert "models:/barlow-digits/1" in done.stderr
    assert foreign_lines(done.stderr) == []


def test_a_library_s_line_is_told_from_ours() -> None:
    lines = ("Successfully registered model 'barlow-digits'.", "epoch 1.0 of 2 · loss 233.3")
    assert foreign_lines("\n".join(lines)) == [lines[0]]


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")


@pytest.mark.usefixtures("wide")
def test_a_path_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    console.print(f"a line: {ODD}")
    table = Table(title=ODD)
    table.add_column(ODD)
    table.add_row(ODD)
    console.print(table)
    warn(ODD)
    terminal.show_error(SettingsError(ODD))
    assert capsys.readouterr().err.count(ODD) == 6


@pytest.mark.usefixtures("wide")
def test_the_commands_that_we_print_can_be_given_to_a_shell(
    capsys: pytest.CaptureFixture[str],
) -> None:
    uri = f"sqlite://{ODD}/mlflow.db"
    summary: dict[str, Any] = {
        "steps": 1, "total_steps": 1, "precision": "fp32", "images_per_s": 1.0,
        "scores": {"loss": 1.0, "knn_top1": None, "rankme_untrained": 1.0, "rankme": 1.0,
                   "alignment": None, "uniformity": None},
        "paths": {"run": ODD, "mlflow": uri}, "model_version": "m/1", "warnings": [],
        "best": None, "neighbors": None,
    }  # fmt: skip
    print_summary(summary)
    lines = capsys.readouterr().err.splitlines()
    [row] = [line for line in lines if "backend-store-uri" in line]
    assert shlex.split(row.split("│")[2])[-1] == uri
    [code] = [line.strip() for line in lines if "set_tracking_uri" in line]
    assert ast.literal_eval(code.removeprefix("mlflow.set_tracking_uri(").removesuffix(")")) == uri


def test_no_pipeline_writes_markup() -> None:
    """The console takes none, so that a path may hold brackets."""
    for file in sorted((ROOT / "pipelines").rglob("*.py")):
        text = file.read_text()
        assert "rich.markup" not in text, file
        assert "[/]" not in text, file
        assert "[bold" not in text.replace('"bold', ""), file


@command
def _planted(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize("call", ["command", "guarded"])
@pytest.mark.usefixtures("wide")
def test_what_nobody_foresaw_is_one_line_and_a_file(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise ZeroDivisionError("by [nothing] at http://me:s3cret@host/x\nand more")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        command(fail)() if call == "command" else guarded(fail)
    assert ended.value.code == 1
    [line] = capsys.readouterr().err.splitlines()
    [log] = tmp_path.iterdir()
    assert line.startswith("ZeroDivisionError: by [nothing] at http://host/x (not foreseen; ")
    assert str(log) in line
    assert line.endswith("kept, and the same command goes on from there.")
    assert "Traceback" in log.read_text()
    assert "in fail" in log.read_text()
    assert "s3cret" not in log.read_text()
    assert log.stat().st_mode & 0o077 == 0


@pytest.mark.usefixtures("wide")
def test_where_no_file_can_be_written_the_line_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/proc/no/such/folder")
    with pytest.raises(SystemExit):
        guarded(lambda: {}["absent"])
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("KeyError: 'absent' (not foreseen; the trace is in no file: ")


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (SettingsError("not so"), 2, "SettingsError: not so"),
        (RunFailedError("on the way"), 1, "RunFailedError: on the way"),
        (PermissionError(13, "Permission denied", "file"), 1, "Permission denied: 'file'"),
        (KeyboardInterrupt(), 130, "Interrupted."),
        (BrokenPipeError(32, "Broken pipe"), 1, "Broken pipe"),
    ],
)
@pytest.mark.usefixtures("wide")
def test_every_end_has_its_code_and_words(
    error: BaseException, code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        command(fail)()
    assert ended.value.code == code
    shown = capsys.readouterr().err
    assert words in shown
    assert "Traceback" not in shown


def test_every_command_answers_so() -> None:
    for file in sorted((ROOT / "pipelines").glob("*.py")):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name == "main":
                names = [d.id for d in node.decorator_list if isinstance(d, ast.Name)]
                assert "command" in names, file


@pytest.mark.usefixtures("wide")
def test_a_fault_beside_the_main_thread_is_a_line_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = threading.excepthook

    def work() -> None:
        thread = threading.Thread(target=lambda: [].pop())
        thread.start()
        thread.join()

    try:
        guarded(work)
    finally:
        threading.excepthook = before
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("IndexError: pop from empty list (not foreseen; ")


CLOSED = """
import os, sys
from pipelines.terminal import command, console, finish, guarded

@command
def main():
    read, write = os.pipe()
    os.close(read)
    os.dup2(write, int(sys.argv[1]))
    for i in range(100):
        guarded(lambda: console.print("a line"))
    finish({"done": True})
    open(sys.argv[2], "w").write("came to its end")

main()
"""


@pytest.mark.parametrize("stream", ["1", "2"])
def test_a_reader_that_goes_away_ends_nothing(stream: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CLOSED, stream, str(tmp_path / "end")],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, (tmp_path / "end").read_text()) == (0, "came to its end")
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr
