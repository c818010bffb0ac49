"""What a person sees: our words, and no library's."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.pipelines.ours import foreign_lines
from tests.pipelines.test_commands import PYTHON, ROOT

HERE = ["--schedule.epochs", "2", "--schedule.warmup-epochs", "1", "--scaling.workers", "0"]


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
