"""200 seeded kills over all phases of a step, a save and a restart: no hang, no wrong weight.

What was done is kept in runs/kills-tested: a part that was ended is gone on with by the next. Other
code begins anew.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.faults_kills import PHASES, Benchmark, campaign, key_of
from benchmarks.faults_on_ray import campaign_on_ray
from tests.cluster.nodes import why_not

FOLDER = Path(__file__).parents[1] / "runs" / "kills-tested"
WITHOUT_RAY, ON_RAY, MINUTES = 180, 20, 50.0


@pytest.mark.slow
def test_kills_in_every_phase_leave_the_weights_as_they_are(tmp_path: Path) -> None:
    """In a process of its own: it forks, and this one may have threads by now."""
    command = [sys.executable, "-m", "benchmarks.faults_kills", "--kills", "2", "--json"]
    found = []
    for _ in range(2):
        done = subprocess.run(
            [*command, "--folder", str(tmp_path)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        found.append(json.loads(done.stdout.splitlines()[-1]))
    first = found[0]["without_ray"]
    assert (first["kills"], first["hangs"], first["wrong"]) == (2, 0, 0), first
    assert found[1]["without_ray"] == first


@pytest.mark.slow
def test_kills_without_ray() -> None:
    progress = campaign(Benchmark(kills=WITHOUT_RAY, minutes=MINUTES, folder=FOLDER))
    assert (progress.hangs, progress.wrong) == (0, 0), progress.faults
    if progress.kills < WITHOUT_RAY:
        pytest.fail(f"{progress.kills} of {WITHOUT_RAY} kills so far; the same command goes on.")
    assert set(progress.by_phase) == set(PHASES)


@pytest.mark.slow
@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
def test_kills_on_ray() -> None:
    order = Benchmark(folder=FOLDER)
    progress = campaign_on_ray(FOLDER / "on_ray", key_of(order), 0, ON_RAY, MINUTES)
    assert (progress.hangs, progress.wrong) == (0, 0), progress.faults
    if progress.kills < ON_RAY:
        pytest.fail(f"{progress.kills} of {ON_RAY} kills so far; the same command goes on.")
