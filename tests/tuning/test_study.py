"""Optuna's study and the trials' records, brought in line whatever became of either."""

import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from bt_ray.errors import LaunchError, SettingsError
from bt_ray.tuning import study_storage
from bt_ray.tuning.order import SweepOrder
from bt_ray.tuning.proposing import build_pruner, build_sampler
from bt_ray.tuning.records import Records, State, TrialRecord
from bt_ray.tuning.space import SearchSpace, load_space
from bt_ray.tuning.study import SweepStudy, number_of
from bt_ray.tuning.study_storage import open_study_storage, own_study, study_url

SPACE: SearchSpace = load_space("projector")


def open_study(folder: Path, records: Records | None = None) -> SweepStudy:
    return SweepStudy(own_study(folder), "s", SPACE, records or Records(folder / "trials"))


def begin(study: SweepStudy) -> optuna.Trial:
    trial = study.optuna.ask()
    SPACE.propose(trial)
    return trial


def record(trial: optuna.Trial, state: State) -> TrialRecord:
    return TrialRecord(
        number=trial.number,
        name=f"s-{trial.number:03d}",
        params=trial.params,
        changes={},
        state=state,
        score=0.5,
        scores={1.0: 0.25, 2.0: 0.5},
        reason="It broke." if state == "failed" else None,
    )


def states(study: SweepStudy) -> list[TrialState]:
    return [trial.state for trial in study.trials()]


def test_a_record_is_read_as_it_was_kept(tmp_path: Path) -> None:
    records, kept = Records(tmp_path / "trials"), record(begin(open_study(tmp_path)), "failed")
    assert records.read(0) is None
    assert list(records) == []
    records.keep(kept)
    assert records.read(0) == kept
    assert list(records) == [kept]


def test_the_study_is_told_how_trials_ended(tmp_path: Path) -> None:
    study, records = open_study(tmp_path), Records(tmp_path / "trials")
    ends: tuple[State, ...] = ("finished", "pruned", "diverged", "failed")
    for state in ends:
        records.keep(record(begin(study), state))
    begin(study)
    assert study.reconcile() == [4]
    finished, pruned, diverged, failed, running = study.trials()
    assert (finished.state, finished.value) == (TrialState.COMPLETE, 0.5)
    assert pruned.state == TrialState.PRUNED
    assert pruned.intermediate_values == {1: 0.25, 2: 0.5}
    assert (diverged.state, diverged.value) == (TrialState.COMPLETE, 0.0)
    assert (failed.state, failed.user_attrs["reason"]) == (TrialState.FAIL, "It broke.")
    assert running.state == TrialState.RUNNING
    assert study.reconcile() == [4]  # and no other is begun


def test_a_trial_is_continued_by_another_process(tmp_path: Path) -> None:
    """With what was drawn for it; what was not yet drawn then is drawn now."""
    first = open_study(tmp_path)
    depth = first.optuna.ask().suggest_int("depth", 1, 5)
    second = open_study(tmp_path)
    (number,) = second.reconcile()
    trial = second.reopen(number)
    SPACE.propose(trial)
    assert trial.params["depth"] == depth
    assert "output_width" in trial.params
    second.note(trial, 1.0, 0.25)
    second.tell(trial, record(trial, "finished"))
    (told,) = first.trials()
    assert (told.state, told.value) == (TrialState.COMPLETE, 0.5)
    assert told.intermediate_values == {1: 0.25, 2: 0.5}


def test_a_lost_study_is_made_anew_from_the_records(tmp_path: Path) -> None:
    study, records = open_study(tmp_path), Records(tmp_path / "trials")
    for state in ("finished", "pruned"):
        records.keep(record(begin(study), state))  # type: ignore[arg-type]
    study.reconcile()
    before = [(t.params, t.state, t.value, t.intermediate_values) for t in study.trials()]
    (tmp_path / "other").mkdir()
    other = open_study(tmp_path / "other", records)
    assert other.reconcile() == []
    assert [(t.params, t.state, t.value, t.intermediate_values) for t in other.trials()] == before


def test_failed_trials_alone_are_begun_again(tmp_path: Path) -> None:
    study, records = open_study(tmp_path), Records(tmp_path / "trials")
    for state in ("finished", "failed", "diverged"):
        records.keep(record(begin(study), state))  # type: ignore[arg-type]
    study.reconcile()
    assert study.begin_again() == [3]
    trial = study.reopen(3)
    assert trial.params == study.trials()[1].params
    assert number_of(trial) == 1
    assert records.read(1) is None
    records.keep(record(begin(study), "finished"))  # another one, of a number of its own
    assert study.count_begun() == 4
    # Killed meanwhile: the next start continues it, whichever way it is asked to.
    assert study.begin_again() == [3]
    assert 3 in study.reconcile()


def test_points_are_queued_once_however_often_a_sweep_starts(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    for _ in range(2):
        study.enqueue(SPACE.points)
    assert states(study) == [TrialState.WAITING]
    assert study.count_begun() == 0
    assert begin(study).params == SPACE.points[0]
    study.enqueue(SPACE.points)
    assert states(study) == [TrialState.RUNNING]


def pruned_at(study: SweepStudy, scores: dict[int, float]) -> int | None:
    """Epoch at which a new trial of these scores is given up."""
    trial = begin(study)
    return next((e for e, score in scores.items() if study.note(trial, e, score)), None)


def test_of_three_trials_at_a_rung_one_goes_on(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    study.optuna.pruner = build_pruner(SweepOrder(), epochs=18)
    assert pruned_at(study, dict.fromkeys(range(1, 18), 0.5)) is None
    # Rungs are at 2 and at 6 epochs; a trial that overtakes the first there goes on.
    assert pruned_at(study, {1: 0.1, 2: 0.4}) == 2
    assert pruned_at(study, {1: 0.1, 2: 0.6, 5: 0.1, 6: 0.4}) == 6
    assert pruned_at(study, {1: 0.1, 2: 0.6, 6: 0.6, 17: 0.1}) is None
    study.optuna.pruner = build_pruner(SweepOrder(pruning="none"), epochs=18)
    assert pruned_at(study, {2: 0.0, 6: 0.0}) is None


def test_scores_of_earlier_starts_are_remembered(tmp_path: Path) -> None:
    """By the pruner, too, even if the study was lost."""
    study, records = open_study(tmp_path), Records(tmp_path / "trials")
    records.keep(record(begin(study), "finished"))
    (tmp_path / "other").mkdir()
    for folder in (tmp_path, tmp_path / "other"):
        again = open_study(folder, records)
        again.optuna.pruner = build_pruner(SweepOrder(grace_epochs=2), epochs=18)
        again.reconcile()
        assert pruned_at(again, {1: 0.1, 2: 0.4}) == 2


def test_a_continued_sweep_does_not_draw_again_what_it_drew(tmp_path: Path) -> None:
    draws = []
    for begun in (0, 0, 3):
        study = optuna.create_study(
            sampler=build_sampler("tpe", seed=7, begun=begun, trials=8), direction="maximize"
        )
        draws.append(study.ask().suggest_float("x", 0, 1))
    assert draws[0] == draws[1] != draws[2]


def test_a_damaged_study_is_answered_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(LaunchError, match=r"not a database.*move it away") as caught:
        open_study_storage(own_study(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_locked_study_is_answered_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_study(tmp_path)
    monkeypatch.setattr(study_storage, "_LOCK_WAIT_S", 0.1)
    holder = sqlite3.connect(tmp_path / "study.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(LaunchError, match=r"database is locked.*wait for that one"):
            open_study(tmp_path)
    finally:
        holder.close()


def test_a_password_is_not_shown(tmp_path: Path) -> None:
    with pytest.raises(LaunchError) as caught:
        open_study_storage("nodatabase://me:secret@host/studies")
    assert "secret" not in str(caught.value)


def with_space(folder: Path, propose: Callable[[Any], dict[str, Any]]) -> SweepStudy:
    space = SearchSpace(name="mine", propose=propose)
    return SweepStudy(own_study(folder), "s", space, Records(folder / "trials"))


def draws_depth(choices: list[int]) -> Callable[[Any], dict[str, Any]]:
    return lambda trial: {"depth": trial.suggest_categorical("depth", choices)}


@pytest.mark.parametrize(
    "edited",
    [
        draws_depth([1, 2, 4]),
        lambda trial: {"depth": trial.suggest_int("depth", 1, 3)},
        lambda trial: {"depth": trial.suggest_float("depth", 1, 3)},
    ],
)
def test_an_edited_space_is_refused_before_a_trial_begins(
    tmp_path: Path, edited: Callable[[Any], dict[str, Any]]
) -> None:
    first = with_space(tmp_path, draws_depth([1, 2]))
    first.optuna.ask().suggest_categorical("depth", [1, 2])
    first.check_space()
    with pytest.raises(SettingsError, match=r"'mine' was edited since .* 'depth' .*another --name"):
        with_space(tmp_path, edited).check_space()


def test_a_range_may_change_and_a_value_may_come_or_go(tmp_path: Path) -> None:
    first = with_space(tmp_path, lambda trial: {"x": trial.suggest_float("x", 0, 1)})
    first.optuna.ask().suggest_float("x", 0, 1)
    for propose in (
        lambda trial: {"x": trial.suggest_float("x", 0.5, 2)},
        lambda trial: {"y": trial.suggest_int("y", 1, 2)},
    ):
        with_space(tmp_path, propose).check_space()


def test_a_lost_study_and_an_edited_space_are_told_apart(tmp_path: Path) -> None:
    """Records of what the space no longer draws cannot become trials of a new study."""
    first = with_space(tmp_path, draws_depth([1, 2]))
    trial = first.optuna.ask()
    trial.suggest_categorical("depth", [1, 2])
    Records(tmp_path / "trials").keep(record(trial, "finished"))
    (tmp_path / "study.db").unlink()
    for edited in (draws_depth([7]), lambda trial: {"y": trial.suggest_int("y", 1, 2)}):
        with pytest.raises(SettingsError, match=r"it cannot draw .* as trial 0 did"):
            with_space(tmp_path, edited).reconcile()


def test_a_record_that_was_cut_is_as_none(tmp_path: Path) -> None:
    records = Records(tmp_path / "trials")
    records.keep(record(begin(open_study(tmp_path)), "finished"))
    (tmp_path / "trials" / "000.json").write_text('{"number": 0, "na')
    assert records.read(0) is None
    assert list(records) == []


@pytest.mark.parametrize(
    "url",
    ["postgresql://me:s3cret@127.0.0.1:9/x", "mysql://me:s3cret@h:port/x",
     "redis://:s3cret@h", "postgresql://h/x?password=s3cret"],
)  # fmt: skip
def test_no_form_of_a_password_is_shown(url: str) -> None:
    with pytest.raises(LaunchError) as caught:
        open_study_storage(url)
    assert "s3cret" not in str(caught.value)


def test_a_study_is_named_by_an_option_a_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BT_RAY_STUDY", raising=False)
    assert study_url(tmp_path) == own_study(tmp_path)
    monkeypatch.setenv("BT_RAY_STUDY", "postgresql://me:s3cret@h/x")
    assert study_url(tmp_path) == "postgresql://me:s3cret@h/x"
    file = tmp_path / "url"
    file.write_text("postgresql://you:s3cret@h/y\n")
    assert study_url(tmp_path, f"@{file}") == "postgresql://you:s3cret@h/y"
    monkeypatch.setenv("BT_RAY_STUDY", f"@{file}")
    assert study_url(tmp_path) == "postgresql://you:s3cret@h/y"
    assert study_url(tmp_path, "sqlite:///z.db") == "sqlite:///z.db"


@pytest.mark.parametrize("content", [None, b"", b"s3cret", b"postgresql://a s3cret", b"\xff\xfe"])
def test_a_file_without_a_url_is_answered_without_what_it_holds(
    tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "url"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingsError, match=r"study=@.*url") as caught:
        study_url(tmp_path, f"@{file}")
    assert "s3cret" not in str(caught.value)


def test_a_missing_driver_is_answered_with_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(LaunchError, match=r"pip install 'bt-ray\[postgresql\]'") as caught:
        open_study_storage("postgresql+psycopg://me:s3cret@h/x")
    assert "s3cret" not in str(caught.value)
