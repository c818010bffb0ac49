"""What Ray Tune asks of a sweep's search, without Ray: who begins, who is given up, who stops."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from optuna.trial import TrialState
from ray.tune.experiment import Trial

from bt_ray.tracking.mlflow import MlflowRun
from bt_ray.tuning.callback import TrialCallback
from bt_ray.tuning.order import SweepOrder
from bt_ray.tuning.progress import Board
from bt_ray.tuning.records import TrialRecord
from bt_ray.tuning.search import StudySearch
from bt_ray.tuning.space import load_space
from bt_ray.tuning.study import SweepStudy, build_pruner, study_url
from bt_ray.tuning.trial import PRUNED, TrialOrder
from bt_ray.tuning.wishes import WishBoard

SPACE = load_space("redundancy_weight")
EPOCHS = 9


@pytest.fixture
def order(tmp_path: Path) -> TrialOrder:
    parent = MlflowRun("sqlite://", "0")
    return TrialOrder(
        name="s", settings="{}", folder=str(tmp_path), score="knn_top1",
        study=study_url(tmp_path), parent=parent,
    )  # fmt: skip


def open_search(order: TrialOrder) -> tuple[SweepStudy, StudySearch]:
    study = SweepStudy(order.study, order.name, SPACE, order.records)
    study.optuna.pruner = build_pruner(SweepOrder(grace_epochs=3), EPOCHS)
    begun = study.reconcile()
    return study, StudySearch(study, SPACE, order, begun=begun, epochs=EPOCHS)


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
