"""200 seeded kills over all phases of a step, a save and a restart: no hang, no wrong weight.

What was done is kept in runs/kills-tested: a part that was ended is gone on with by the next. Other
code begins anew.
"""

from pathlib import Path

import pytest

from benchmarks.faults_kills import PHASES, Benchmark, campaign, key_of
from benchmarks.faults_on_ray import campaign_on_ray
from tests.cluster.nodes import why_not

FOLDER = Path(__file__).parents[1] / "runs" / "kills-tested"
WITHOUT_RAY, ON_RAY, MINUTES = 180, 20, 50.0


@pytest.mark.run
def test_kills_in_every_phase_leave_the_weights_as_they_are(tmp_path: Path) -> None:
    progress = campaign(Benchmark(kills=4, folder=tmp_path))
    assert (progress.kills, progress.hangs, progress.wrong) == (4, 0, 0), progress.faults
    again = campaign(Benchmark(kills=4, folder=tmp_path))
    assert again.record() == progress.record()


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
