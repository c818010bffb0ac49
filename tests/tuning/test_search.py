"""What Ray Tune asks of a sweep's search, without Ray: who begins, who is given up, who stops."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from ray.tune.experiment import Trial
from sqlalchemy.exc import OperationalError

from bt_ray.config import override, to_json
from bt_ray.presets import preset
from bt_ray.tracking.mlflow import MlflowRun
from bt_ray.tuning import study_storage
from bt_ray.tuning.callback import TrialCallback
from bt_ray.tuning.fitting import Place
from bt_ray.tuning.order import SweepOrder
from bt_ray.tuning.progress import Board
from bt_ray.tuning.proposing import build_pruner
from bt_ray.tuning.records import TrialRecord
from bt_ray.tuning.search import StudySearch
from bt_ray.tuning.space import SearchSpace, load_space
from bt_ray.tuning.study import SweepStudy
from bt_ray.tuning.study_storage import own_study
from bt_ray.tuning.trial import PRUNED, TrialOrder
from bt_ray.tuning.wishes import WishBoard

SPACE = load_space("redundancy_weight")
EPOCHS = 9


@pytest.fixture
def order(tmp_path: Path) -> TrialOrder:
    parent = MlflowRun("sqlite://", "0")
    return TrialOrder(
        name="s", settings="{}", folder=str(tmp_path), storage=str(tmp_path), score="knn_top1",
        study=own_study(tmp_path), parent=parent,
    )  # fmt: skip


def open_search(order: TrialOrder, left: int = 9, **more: Any) -> tuple[SweepStudy, StudySearch]:
    study = SweepStudy(order.study, order.name, SPACE, order.records)
    study.optuna.pruner = build_pruner(SweepOrder(grace_epochs=3), EPOCHS)
    begun = study.reconcile()
    return study, StudySearch(study, SPACE, order, begun=begun, left=left, epochs=EPOCHS, **more)


def start(search: StudySearch, order: TrialOrder, trial_id: str) -> dict[str, Any]:
    config = search.suggest(trial_id)
    assert isinstance(config, dict)
    order.run_folder(config["number"]).mkdir(parents=True, exist_ok=True)
    return config


def test_what_was_begun_is_continued_before_anything_new(order: TrialOrder) -> None:
    _, search = open_search(order)
    first, second = start(search, order, "a"), start(search, order, "b")
    order.records.keep(TrialRecord(number=0, name="s-000", params=first["params"], changes={},
                                   state="finished", score=0.5))  # fmt: skip
    search.on_trial_complete("a")
    search.on_trial_complete("b")  # was asked to stop with the sweep: it has no record
    study, again = open_search(order)
    assert [trial.state for trial in study.trials()] == [TrialState.COMPLETE, TrialState.RUNNING]
    assert start(again, order, "c") == second
    assert start(again, order, "d")["number"] == 2
    again.stopping = True
    assert again.suggest("e") == StudySearch.FINISHED


def test_a_trial_that_lags_is_asked_to_stop_until_it_does(order: TrialOrder) -> None:
    """Its process may die meanwhile, and forgets what it was asked when it begins again."""
    _, search = open_search(order)
    leads, lags = start(search, order, "a"), start(search, order, "b")
    search.on_trial_result("a", {"epoch": 3.0, "score": 0.5})
    search.on_trial_result("b", {"epoch": 2.0, "score": 0.1})
    assert not (order.run_folder(1) / PRUNED).exists()
    search.on_trial_result("b", {"epoch": 3.0, "score": 0.1})
    search.on_trial_result("b", {"done": True})
    running: list[Any] = [
        SimpleNamespace(config=config, status=Trial.RUNNING) for config in (leads, lags)
    ]
    board = Board((), total=2, epochs=EPOCHS, at_once=2)
    for _ in range(2):  # whoever passes wishes on was killed in between
        wishes = WishBoard()
        callback = TrialCallback(order, search, board, lambda progress: None, wishes)
        callback.on_step_begin(1, running)
        assert [wishes.read(number) for number in (0, 1)] == [None, "give up"]
    search.stopping = True
    callback.on_step_begin(1, running)
    assert [wishes.read(number) for number in (0, 1)] == ["stop", "give up"]


def test_a_trial_at_its_last_epoch_is_not_given_up(order: TrialOrder) -> None:
    _, search = open_search(order)
    for trial_id, score in (("a", 0.5), ("b", 0.1)):
        start(search, order, trial_id)
        search.on_trial_result(trial_id, {"epoch": float(EPOCHS), "score": score})
    assert not (order.run_folder(1) / PRUNED).exists()


def test_no_trial_begins_without_room(order: TrialOrder) -> None:
    places = [1]
    _, search = open_search(order, room=lambda: places[0])
    first = start(search, order, "a")
    assert search.suggest("b") is None
    places[0] = 2
    start(search, order, "c")
    assert search.suggest("d") is None
    order.records.keep(TrialRecord(number=first["number"], name="s-000", params=first["params"],
                                   changes={}, state="finished", score=0.5))  # fmt: skip
    search.on_trial_complete("a")
    assert start(search, order, "e")["number"] == 2


def test_a_trial_that_does_not_fit_never_begins(order: TrialOrder) -> None:
    """The study avoids its like, a start that follows does not try it again, others go on."""
    wide = SearchSpace(
        name="wide",
        propose=lambda trial: {
            "model.projector_widths": [64, trial.suggest_categorical("width", [32, 9_000_000])]
        },
        points=({"width": 9_000_000}, {"width": 32}, {"width": 9_000_000}),
    )
    small = override(preset("digits"), {"data.global_batch": 4, "training.precision": "fp32"})
    order = replace(order, settings=to_json(small))
    study = SweepStudy(order.study, order.name, wide, order.records)
    for point in wide.points:
        study.optuna.enqueue_trial(point)
    place = Place(name="the GPU", memory_bytes=2**28, workers=1, keeps_copies=False)
    search = StudySearch(study, wide, order, begun=[], left=3, epochs=EPOCHS, place=place)
    [foreseen, again] = search.foresee(wide.points)
    assert foreseen == again
    assert foreseen.startswith("A trial (width=9000000) will not fit into memory")
    config = search.suggest("a")
    assert isinstance(config, dict)
    assert (config["number"], config["params"]) == (1, {"width": 32})
    assert search.suggest("b") == StudySearch.FINISHED
    first, last = search.take_misfits()
    assert search.take_misfits() == []
    assert [first, last] == list(order.records)
    assert (first.state, first.steps, first.run_id) == ("failed", 0, None)
    assert first.needed_bytes is not None
    assert "Trial 0 (width=9000000) does not fit" in str(first.reason)
    assert f"{first.needed_bytes:,} bytes" in str(first.reason)
    states = [TrialState.PRUNED, TrialState.RUNNING, TrialState.PRUNED]
    assert [trial.state for trial in study.trials()] == states
    (order.run_folder(1)).mkdir(parents=True)
    study = SweepStudy(order.study, order.name, wide, order.records)
    assert study.reconcile() == [1]
    Path(order.study.removeprefix("sqlite:///")).unlink()  # made anew from the records
    study = SweepStudy(order.study, order.name, wide, order.records)
    assert study.reconcile() == []
    assert [trial.state for trial in study.trials()] == [TrialState.PRUNED] * 2


def test_a_database_that_is_away_for_a_while_ends_no_sweep(
    order: TrialOrder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    study, search = open_search(order)
    monkeypatch.setattr(study_storage, "_PAUSE_S", 0.0)
    for name in ("ask", "report", "tell"):
        whose = optuna.Trial if name == "report" else optuna.Study
        monkeypatch.setattr(whose, name, away_twice(getattr(whose, name)))
    config = start(search, order, "a")
    search.on_trial_result("a", {"epoch": 3.0, "score": 0.5})
    order.records.keep(TrialRecord(number=0, name="s-000", params=config["params"], changes={},
                                   state="finished", score=0.5))  # fmt: skip
    search.on_trial_complete("a")
    [trial] = study.trials()
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 0.5)
    assert trial.intermediate_values == {3: 0.5}
    assert caplog.text.count("Optuna's study does not answer") == 3
    monkeypatch.setattr(study_storage, "_PATIENCE_S", 0.0)
    monkeypatch.setattr(optuna.Study, "ask", away_twice(optuna.Study.ask))
    with pytest.raises(OperationalError):
        search.suggest("b")


def away_twice(method: Any) -> Any:
    """The method of a study whose database fails it two times."""
    left = [StorageInternalError("away"), OperationalError("SELECT", {}, OSError("refused"))]

    def called(*args: Any, **options: Any) -> Any:
        if left:
            raise left.pop()
        return method(*args, **options)

    return called
