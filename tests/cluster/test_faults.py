"""Faults that a run gets over, on three nodes, and that end with the very weights."""

from pathlib import Path

import pytest

from benchmarks.faults_campaign import Campaign
from benchmarks.faults_list import FAULTS
from benchmarks.faults_place import make_place
from benchmarks.faults_run import WANTED
from tests.cluster.nodes import why_not

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]

SUFFERED = ("rank0-killed", "node-killed", "driver-killed", "driver-preempted", "disk-full")


@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
def test_one_run_gets_over_five_faults_in_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in WANTED.items():
        monkeypatch.setenv(variable, value)
    with make_place(tmp_path, ["small"]) as place:
        results = Campaign(place, seed=0, code="").suffer(*(FAULTS[name] for name in SUFFERED))
    for name, result in zip(SUFFERED, results, strict=True):
        assert result.as_promised, f"{name}: {result}"
