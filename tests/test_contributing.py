"""The recipes of CONTRIBUTING.md, followed to the letter in a copy of the tree."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[1]
RECIPES = ("An objective", "A data source", "A search space")
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"`([\w/]+\.py)`")


def recipe(title: str) -> str:
    """The section of this title."""
    sections = re.split(r"^## ", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.MULTILINE)
    [section] = [text for text in sections if text.startswith(f"{title}\n")]
    return section


def steps(section: str) -> Iterator[tuple[str, str, str]]:
    """Each block: its kind, the file that was named last before it, its text."""
    for block in _FENCE.finditer(section):
        named = _FILE.findall(section[: block.start()])
        yield block[2], named[-1] if named else "", dedent(block[3])


def add_lines(file: Path, block: str) -> None:
    """Adds the lines with `+` where the others of the block stand in the file, exactly once."""
    lines = block.splitlines()
    before = "\n".join(line[1:] for line in lines if not line.startswith("+"))
    after = "\n".join(line[1:] for line in lines)
    text = file.read_text()
    assert text.count(before) == 1, f"{file.name} no longer has, once:\n{before}"
    file.write_text(text.replace(before, after))


def follow(section: str, tree: Path) -> list[str]:
    """Does in `tree` what a recipe says; the commands that it wants to be run."""
    commands = []
    for kind, name, block in steps(section):
        if kind == "python":
            assert not (tree / name).exists()
            (tree / name).write_text(block)
        elif kind == "diff":
            add_lines(tree / name, block)
        else:
            commands += block.splitlines()
    return commands


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the code and of its tests."""
    for room in ("bt_ray", "pipelines", "tune_spaces", "tests"):
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("earlier"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def run(tree: Path, *arguments: str | Path) -> str:
    """What a module of Python prints when it is run in `tree`, where it must succeed."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=tree,
        env=os.environ | {"PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("title", RECIPES)
def test_a_recipe_leads_to_what_its_tests_accept(title: str, tree: Path) -> None:
    commands = follow(recipe(title), tree)
    new = [file for file in tree.rglob("*.py") if not (ROOT / file.relative_to(tree)).exists()]
    run(tree, "ruff", "format", "--check", *new)
    run(tree, "ruff", "check", *new)
    for command in commands:
        program, *arguments = shlex.split(command)
        shown = run(tree, program, "--verbose", *arguments)
        assert new[0].stem.removeprefix("test_") in shown  # it is what was tested
    assert commands
