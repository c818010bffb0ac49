"""Thirty trials at once, against one study in PostgreSQL."""

import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from optuna.trial import TrialState

from bt_ray.errors import LaunchError, SettingsError
from bt_ray.tracking.mlflow import MlflowRun
from bt_ray.tuning.order import SweepOrder
from bt_ray.tuning.proposing import build_pruner, build_sampler
from bt_ray.tuning.records import Records, TrialRecord
from bt_ray.tuning.search import StudySearch
from bt_ray.tuning.space import load_space
from bt_ray.tuning.study import SweepStudy
from bt_ray.tuning.study_storage import open_study_storage
from bt_ray.tuning.trial import TrialOrder
from tests.postgres import PASSWORD, serve_postgres

pytestmark = pytest.mark.cluster
pytest.importorskip("psycopg")

SPACE = load_space("redundancy_weight")
TRIALS, EPOCHS = 30, 3


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serve_postgres() as place:
        yield place


def record(number: int, params: dict[str, Any], score: float) -> TrialRecord:
    scores = {float(epoch): score for epoch in range(1, EPOCHS + 1)}
    return TrialRecord(
        number=number, name=f"s-{number:03d}", params=params, changes={}, state="finished",
        score=score, scores=scores,
    )  # fmt: skip


def work(url: str, folder: Path, seed: int, begin: Any, told: Any) -> None:
    """One process: opens the study, which nobody has made yet, and sees one trial to its end."""
    begin.wait(60)
    records = Records(folder / "trials")
    study = SweepStudy(url, "alone", SPACE, records)
    study.optuna.sampler = build_sampler("tpe", seed=seed, begun=0, trials=TRIALS)
    study.optuna.pruner = build_pruner(SweepOrder(), EPOCHS)
    trial = study.optuna.ask()
    SPACE.propose(trial)
    for epoch in range(1, EPOCHS + 1):
        study.note(trial, epoch, seed / TRIALS)
    ended = record(trial.number, trial.params, seed / TRIALS)
    records.keep(ended)
    study.tell(trial, ended)
    told.put((trial.number, trial.params["redundancy_weight"], seed / TRIALS))


@pytest.mark.timeout(600)
def test_thirty_processes_begin_one_study_and_each_trial_is_recorded_once(
    url: str, tmp_path: Path
) -> None:
    open_study_storage("sqlite://")  # what it imports is there for all
    sqlalchemy.create_engine(url)
    fork = multiprocessing.get_context("fork")
    begin, told = fork.Barrier(TRIALS), fork.Queue()
    processes = [
        fork.Process(target=work, args=(url, tmp_path, seed, begin, told)) for seed in range(TRIALS)
    ]
    for process in processes:
        process.start()
    found = sorted(told.get(timeout=300) for _ in processes)
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    assert [number for number, *_ in found] == list(range(TRIALS))
    study = SweepStudy(url, "alone", SPACE, Records(tmp_path / "trials"))
    assert study.reconcile() == []
    trials = study.trials()
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    assert found == [(t.number, t.params["redundancy_weight"], t.value) for t in trials]
    assert all(list(t.intermediate_values) == [1, 2, 3] for t in trials)
    assert [kept.number for kept in Records(tmp_path / "trials")] == list(range(TRIALS))


def test_one_sweep_has_thirty_trials_at_once(url: str, tmp_path: Path) -> None:
    """They report in turn; the next start continues those that have not ended, and no other."""
    order = TrialOrder(name="s", settings="{}", folder=str(tmp_path), storage=str(tmp_path),
                       score="knn_top1", study=url, parent=MlflowRun("sqlite://", "0"))  # fmt: skip

    def start(begun: list[int]) -> tuple[SweepStudy, StudySearch]:
        study = SweepStudy(url, "s", SPACE, order.records)
        study.optuna.sampler = build_sampler("tpe", seed=0, begun=len(begun), trials=TRIALS)
        search = StudySearch(study, SPACE, order, begun=list(begun), left=TRIALS + 1, epochs=EPOCHS,
                             room=lambda: TRIALS)  # fmt: skip
        return study, search

    _, search = start([])
    running = {f"t{n}": search.suggest(f"t{n}") for n in range(TRIALS)}
    assert search.suggest("one more") is None
    for epoch in range(1, EPOCHS + 1):
        for name in running:
            search.on_trial_result(name, {"epoch": float(epoch), "score": 0.5})
    for name, config in running.items():
        assert isinstance(config, dict)
        if config["number"] % 3:
            order.records.keep(record(config["number"], config["params"], 0.5))
            search.on_trial_complete(name)
    study = SweepStudy(url, "s", SPACE, order.records)
    begun = study.reconcile()
    assert begun == list(range(0, TRIALS, 3))
    _, again = start(begun)
    goes_on = [again.suggest(f"u{n}") for n in begun]
    assert goes_on == [running[f"t{n}"] for n in range(0, TRIALS, 3)]
    assert len(study.trials()) == TRIALS


def test_a_study_of_another_sweep_is_refused(url: str, tmp_path: Path) -> None:
    study = SweepStudy(url, "claimed", SPACE, Records(tmp_path))
    study.claim("mine", tmp_path / "a")
    again = SweepStudy(url, "claimed", SPACE, Records(tmp_path))
    again.claim("mine", tmp_path / "moved")
    with pytest.raises(SettingsError, match=r"'claimed' of another sweep, that of .*/a: give"):
        again.claim("theirs", tmp_path / "a")


def test_a_wrong_password_is_not_shown(url: str) -> None:
    with pytest.raises(LaunchError) as caught:
        open_study_storage(url.replace(PASSWORD, "wr0ng-one"))
    assert "wr0ng-one" not in str(caught.value)
    assert "password" in str(caught.value)
