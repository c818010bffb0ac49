"""A sweep on several nodes: each trial holds a whole GPU, a lost node loses its own trials alone.

The GPUs are logical ones, of `ray start --num-gpus`: trials hold them, and compute on the CPU.
"""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bt_ray.config import Settings, override, to_json
from tests.cluster.nodes import HEAD, Nodes, address, make_nodes

pytestmark = pytest.mark.cluster

EPOCHS, EVERY = 300, 5  # two steps each
SPACE = f"""
from bt_ray.tuning.space import SearchSpace


def propose(trial):
    width = trial.suggest_categorical("width", [32, 48, 64, 20_000_000])
    return {{"model.projector_widths": [64, width],
            "schedule.epochs": 3 if width == 32 else {EPOCHS}}}


SPACE = SearchSpace(
    name="widths", propose=propose, points=tuple({{"width": w}} for w in (64, 48, 20_000_000, 32))
)
"""


@pytest.fixture
def nodes(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """A head without GPUs, and two nodes with one each; they share pytest's folder."""
    with make_nodes(tmp_path / "logs", shared=[tmp_path_factory.getbasetemp()]) as made:
        made.join(HEAD, cpus=1)
        made.join(2, cpus=2, gpus=1)
        made.join(3, cpus=2, gpus=1)
        yield made


def steps_of(run_folder: Path) -> list[int]:
    """The steps whose loss was noted, in the order of the notes."""
    file = run_folder / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.is_file() else []
    measures = [json.loads(line) for line in lines if line.endswith("\n")]
    return [line["step"] for line in measures if "train/loss" in line]


@pytest.mark.timeout(900)
@pytest.mark.slow
def test_a_lost_node_loses_the_steps_of_its_own_trials_alone(
    nodes: Nodes, small_settings: Settings, tmp_path: Path
) -> None:
    changes: dict[str, Any] = {
        "training.checkpoint_every_epochs": EVERY, "training.probe_every_epochs": EPOCHS,
        "scaling.cpus_per_worker": 0.5,
    }  # fmt: skip
    given, space = tmp_path / "given.json", tmp_path / "widths.py"
    given.write_text(to_json(override(small_settings, changes)))
    space.write_text(SPACE)
    folder = tmp_path / "sweeps" / "widths-small"
    runs = [folder / "runs" / f"widths-small-00{number}" for number in range(4)]
    out, log = tmp_path / "out", tmp_path / "log"
    with out.open("w") as stdout, log.open("w") as stderr:
        process = nodes.begin(
            HEAD,
            [sys.executable, "-m", "pipelines.sweep", str(space), str(given), "--trials", "4",
             "--seeds", "1", "--pruning", "none"],
            env={"RAY_ADDRESS": f"{address(HEAD)}:6379", "OMP_NUM_THREADS": "1"},
            stdout=stdout, stderr=stderr,
        )  # fmt: skip
        while not all(len(steps_of(run)) > 4 * EVERY for run in runs[:2]):
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        nodes.kill(3)
        while not runs[3].exists():
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        # Of the place that became free, that which lost its own had the first use.
        assert len(list(folder.glob("trials/00[01].json"))) == 2
        assert process.wait() == 0, log.read_text()

    found = json.loads(out.read_text().splitlines()[-1])["trials"]
    states = [trial["state"] for trial in found]
    assert states == ["finished", "finished", "failed", "finished"]
    noted = [steps_of(run) for run in runs[:2]]
    twice = sorted(len(steps) - len(set(steps)) for steps in noted)
    assert {len(set(steps)) for steps in noted} == {2 * EPOCHS}
    assert twice[0] == 0 < twice[1] <= 2 * 2 * EVERY  # the last checkpoint may have been under way
    assert not runs[2].exists()
    wide = found[2]
    assert wide["needed_bytes"] > 20_000_000 * 64 * 4 * 3  # weights, gradients, momentum
    assert "Trial 2 (width=20000000) does not fit into memory" in wide["reason"]
    assert f"({wide['needed_bytes']:,} bytes)" in wide["reason"]
    told = " ".join(log.read_text().split())
    assert "A trial (width=20000000) will not fit into memory" in told
    assert told.count("Ray counts GPUs on node2, node3, where torch finds none") == 1
