"""`bt-ray`: all commands under one name."""

import re
import subprocess
import sys
from importlib import import_module

import pytest

import bt_ray
from pipelines.__main__ import COMMANDS, main
from tests.pipelines.test_commands import ROOT

MODULES = sorted(set(COMMANDS) - {"demo"})


def say(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["bt-ray", *arguments])
    main()


def test_every_command_is_listed_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = (ROOT / "pipelines").glob("*.py")
    assert [file.stem for file in sorted(files) if "def main()" in file.read_text()][1:] == MODULES
    say(monkeypatch)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[0] for line in lines[1:-1]] == list(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_gets_its_arguments(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[list[str]] = []
    module, first = ("pretrain", ["digits"]) if name == "demo" else (name, [])
    monkeypatch.setattr(
        import_module(f"pipelines.{module}"), "main", lambda: given.append(sys.argv[1:])
    )
    say(monkeypatch, name, "--seeds", "3")
    assert given == [[*first, "--seeds", "3"]]


def test_an_unknown_command_is_answered_with_the_nearest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        say(monkeypatch, "pretrian", "digits")
    assert left.value.code == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == (
        "", "There is no command 'pretrian'; did you mean 'pretrain'?\n"
    )  # fmt: skip


def test_its_version_is_the_package_s(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    say(monkeypatch, "--version")
    assert capsys.readouterr().out == f"bt-ray {bt_ray.__version__}\n"
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+)?", bt_ray.__version__)


def test_no_command_waits_for_large_libraries_before_it_says_a_word() -> None:
    """Torch, Ray and MLflow take seconds to import."""
    code = (
        "import sys\n"
        "from pipelines.__main__ import main\n"
        f"for name in {MODULES}:\n"
        "    sys.argv = ['bt-ray', name, '--help']\n"
        "    try:\n"
        "        main()\n"
        "    except SystemExit as left:\n"
        "        assert left.code in (0, None), name\n"
        "    assert not {'torch', 'ray', 'mlflow'} & set(sys.modules), name\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
