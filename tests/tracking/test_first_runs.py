"""MLflow's tables: made by one process at a time."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = """
import sys
from bt_ray.config import override
from bt_ray.presets import preset
from bt_ray.tracking.mlflow import start_run
run, _ = start_run(override(preset("digits"), {"storage": sys.argv[1]}))
print(run.uri)
"""


@pytest.mark.run
def test_two_processes_that_begin_at_once_share_an_experiment(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CODE, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    told = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert told[0] == told[1] != ""
