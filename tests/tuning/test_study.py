"""Optuna's study and the trials' records, brought in line whatever became of either."""

import sqlite3
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from bt_ray.errors import LaunchError
from bt_ray.tuning import study as study_module
from bt_ray.tuning.records import Records, State, TrialRecord
from bt_ray.tuning.space import SearchSpace, load_space
from bt_ray.tuning.study import (
    begin_again,
    build_sampler,
    enqueue,
    open_study_storage,
    reconcile,
    replay,
    study_url,
)

SPACE: SearchSpace = load_space("projector")


def new_study(folder: Path) -> optuna.Study:
    return optuna.create_study(
        storage=open_study_storage(study_url(folder)),
        study_name="s",
        direction="maximize",
        load_if_exists=True,
    )


def begin(study: optuna.Study) -> optuna.Trial:
    trial = study.ask()
    SPACE.propose(trial)
    return trial


def record(trial: optuna.Trial, state: State, score: float | None = 0.5) -> TrialRecord:
    return TrialRecord(
        number=trial.number,
        name=f"s-{trial.number:03d}",
        params=trial.params,
        changes={},
        state=state,
        score=score,
        scores={1.0: 0.25, 2.0: 0.5},
        reason="It broke." if state == "failed" else None,
    )


def states(study: optuna.Study) -> list[TrialState]:
    return [trial.state for trial in study.trials]


def test_a_record_is_read_as_it_was_kept(tmp_path: Path) -> None:
    records, kept = Records(tmp_path / "trials"), record(begin(new_study(tmp_path)), "failed")
    assert records.read(0) is None
    assert list(records) == []
    records.keep(kept)
    assert records.read(0) == kept
    assert list(records) == [kept]


def test_the_study_is_told_how_trials_ended(tmp_path: Path) -> None:
    study, records = new_study(tmp_path), Records(tmp_path / "trials")
    ends: tuple[State, ...] = ("finished", "pruned", "diverged", "failed")
    for state in ends:
        records.keep(record(begin(study), state))
    unfinished = begin(study)
    assert reconcile(study, SPACE, records) == [unfinished._trial_id]
    finished, pruned, diverged, failed, running = study.trials
    assert (finished.state, finished.value) == (TrialState.COMPLETE, 0.5)
    assert pruned.state == TrialState.PRUNED
    assert pruned.intermediate_values == {1: 0.25, 2: 0.5}
    assert (diverged.state, diverged.value) == (TrialState.COMPLETE, 0.0)
    assert (failed.state, failed.user_attrs["reason"]) == (TrialState.FAIL, "It broke.")
    assert running.state == TrialState.RUNNING
    assert reconcile(study, SPACE, records) == [unfinished._trial_id]  # and no other is begun


def test_a_lost_study_is_made_anew_from_the_records(tmp_path: Path) -> None:
    study, records = new_study(tmp_path), Records(tmp_path / "trials")
    for state in ("finished", "pruned"):
        records.keep(record(begin(study), state))  # type: ignore[arg-type]
    reconcile(study, SPACE, records)
    before = [(t.params, t.state, t.value, t.intermediate_values) for t in study.trials]
    other = new_study(tmp_path / "..")
    assert reconcile(other, SPACE, records) == []
    assert [(t.params, t.state, t.value, t.intermediate_values) for t in other.trials] == before


def test_failed_trials_alone_are_begun_again(tmp_path: Path) -> None:
    study, records = new_study(tmp_path), Records(tmp_path / "trials")
    for state in ("finished", "failed", "diverged"):
        records.keep(record(begin(study), state))  # type: ignore[arg-type]
    reconcile(study, SPACE, records)
    (again,) = begin_again(study, SPACE, records)
    trial = optuna.Trial(study, again)
    assert trial.params == study.trials[1].params
    assert records.read(1) is None
    records.keep(record(begin(study), "finished"))  # another one, of a number of its own
    assert study_module.number_of(study.trials[3]) == 1
    # Killed meanwhile: the next start goes on with it, whichever way it is asked to.
    assert begin_again(study, SPACE, records) == [again]
    assert again in reconcile(study, SPACE, records)


def test_points_are_queued_once_however_often_a_sweep_starts(tmp_path: Path) -> None:
    study = new_study(tmp_path)
    for _ in range(2):
        enqueue(study, SPACE.points)
    assert states(study) == [TrialState.WAITING]
    assert begin(study).params == SPACE.points[0]
    enqueue(study, SPACE.points)
    assert states(study) == [TrialState.RUNNING]


def test_a_continued_sweep_does_not_draw_again_what_it_drew(tmp_path: Path) -> None:
    draws = []
    for begun in (0, 0, 3):
        study = optuna.create_study(
            sampler=build_sampler("tpe", seed=7, begun=begun, trials=8), direction="maximize"
        )
        draws.append(study.ask().suggest_float("x", 0, 1))
    assert draws[0] == draws[1] != draws[2]


def test_scores_of_earlier_starts_are_remembered(tmp_path: Path) -> None:
    study, records = new_study(tmp_path), Records(tmp_path / "trials")
    records.keep(record(begin(study), "pruned"))
    reconcile(study, SPACE, records)
    heard: list[tuple[int, float, float]] = []
    replay(study, lambda number, epoch, score: heard.append((number, epoch, score)))
    assert heard == [(0, 1, 0.25), (0, 2, 0.5)]


def test_a_damaged_study_is_answered_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(LaunchError, match=r"not a database.*move it away") as caught:
        open_study_storage(study_url(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_locked_study_is_answered_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_study(tmp_path)
    monkeypatch.setattr(study_module, "_LOCK_WAIT_S", 0.1)
    holder = sqlite3.connect(tmp_path / "study.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(LaunchError, match=r"database is locked.*wait for that one"):
            new_study(tmp_path)
    finally:
        holder.close()


def test_a_password_is_not_shown(tmp_path: Path) -> None:
    with pytest.raises(LaunchError) as caught:
        open_study_storage("nodatabase://me:secret@host/studies")
    assert "secret" not in str(caught.value)
