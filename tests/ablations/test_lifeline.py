"""No process of a run outlives the one that started it."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bt_ray.checkpoints.checkpoint import last_checkpoint
from bt_ray.config import Settings, override, to_json
from bt_ray.tracking.tracker import METRICS, read_history

ROOT = Path(__file__).parents[2]
SLEEPS = """
from functools import partial
from pathlib import Path
from bt_ray.ablations.train import Making, Order, _train_here
from bt_ray.presets import preset
from pipelines.terminal import answering, interrupted_by_sigterm

if __name__ == "__main__":
    sleep = partial(exec, "import time; print('begun', flush=True); time.sleep(600)")
    order = Order(settings=preset("digits"), linear=None)
    with answering(), interrupted_by_sigterm():
        list(_train_here([order], Path("results"), Making(prepare_process=sleep)))
"""
TRAINS = """
import sys
from pathlib import Path
from bt_ray.ablations.train import Making, Order, train_all
from bt_ray.config import from_json

if __name__ == "__main__":
    storage = Path(sys.argv[1])
    order = Order(settings=from_json((storage / "order.json").read_text()), linear=None)
    list(train_all([order], storage / "results", Making(apart=True)))
"""


def begin(script: str, *arguments: str) -> subprocess.Popen[str]:
    """Runs the script; its output ends once no process of it is left."""
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


@pytest.mark.run
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_ends_with_the_one_that_started_it(number: signal.Signals) -> None:
    with begin(SLEEPS) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "begun\n"
        parent.send_signal(number)
        said = parent.communicate(timeout=60)[0]
    if number == signal.SIGTERM:
        assert (parent.returncode, said) == (128 + number, "Interrupted.\n")


@pytest.mark.run
def test_a_run_writes_a_checkpoint_when_its_parent_is_killed(
    small_settings: Settings, tmp_path: Path
) -> None:
    long = {"schedule.epochs": 5000, "training.checkpoint_every_epochs": 5000, "scaling.workers": 0}
    (tmp_path / "order.json").write_text(to_json(override(small_settings, long)))
    with begin(TRAINS, str(tmp_path)) as parent:
        while not (begun := [file.parent for file in tmp_path.glob(f"*/{METRICS}")]) or (
            not read_history(begun[0] / METRICS).get("train/loss")
        ):
            assert parent.poll() is None
            time.sleep(0.1)
        parent.kill()
        parent.communicate(timeout=60)
    checkpoint, steps = last_checkpoint(begun[0])
    assert checkpoint is not None
    assert 0 < steps < 10_000
    assert not (tmp_path / "results").exists()
