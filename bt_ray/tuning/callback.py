"""What the sweep's process does when a trial begins, reports or ends."""

import logging
from collections.abc import Callable
from typing import Any

import ray.exceptions
from ray import tune
from ray.tune.experiment import Trial

from bt_ray.errors import TrackingError
from bt_ray.redaction import redact
from bt_ray.tracking.mlflow_record import recorded_run
from bt_ray.tuning.progress import Board, SweepProgress
from bt_ray.tuning.records import TrialRecord
from bt_ray.tuning.search import StudySearch
from bt_ray.tuning.trial import OUT_OF_MEMORY, PRUNED, TrialOrder, describe, explain
from bt_ray.tuning.wishes import Wishes

_log = logging.getLogger(__name__)


class TrialCallback(tune.Callback):
    """Updates the board, asks trials to stop, records processes that died, tags MLflow runs."""

    def __init__(
        self,
        order: TrialOrder,
        search: StudySearch,
        board: Board,
        on_progress: Callable[[SweepProgress], None],
        wishes: Wishes,
    ) -> None:
        self._order, self._search, self._board = order, search, board
        self._on_progress, self._wishes = on_progress, wishes

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Asks the trials that lag behind to stop, or all, if the sweep shall.

        It asks at each step, as who passes wishes on may have been killed, and begun again.
        """
        for trial in trials:
            if trial.status == Trial.RUNNING:
                number = trial.config["number"]
                if (self._order.run_folder(number) / PRUNED).exists():
                    self._wishes.leave(number, "give up")
                elif self._search.stopping:
                    self._wishes.leave(number, "stop")

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Shows the state of the sweep."""
        for misfit in self._search.take_misfits():
            self._board.end(misfit)
        self._on_progress(self._board.look())

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Counts it as running."""
        self._board.begin(trial.config["number"], trial.config["params"])

    def on_trial_recover(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Counts it as waiting for its next start."""
        self._board.wait(trial.config["number"])

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Notes its score."""
        if "score" in result:
            self._board.hear(trial.config["number"], result["epoch"], result["score"])

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Notes how it ended; one that was stopped with the whole sweep has not."""
        record = self._order.records.read(trial.config["number"])
        if record is not None:
            self._end(record)

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Records a trial whose process died once too often, or ran out of memory."""
        config = trial.config
        number = config["number"]
        record = self._order.records.read(number)
        if record is None:
            starts = trial.num_failures
            record = describe(
                self._order, number, config["params"], config["changes"], "failed",
                redact(f"{_why(trial)} It was started {starts} times.", self._order.study),
            )  # fmt: skip
            self._order.records.keep(record)
            self._search.on_trial_complete(trial.trial_id)
            self._close_run(record)
        self._end(record)

    def _end(self, record: TrialRecord) -> None:
        self._board.end(record)
        run = recorded_run(self._order.run_folder(record.number))
        progress = self._board.look()
        try:
            if run is not None:
                for name, value in describe_end(record).items():
                    run.tag(name, value)
            if progress.best is not None and progress.best.score is not None:
                self._order.parent.log(progress.num_ended, {"best/score": progress.best.score})
        except TrackingError as away:
            _log.warning("%s The record of %s has it all.", away, record.name)

    def _close_run(self, record: TrialRecord) -> None:
        """Ends the MLflow run of a process that could not."""
        run = recorded_run(self._order.run_folder(record.number))
        try:
            if run is not None:
                run.end("FAILED")
        except TrackingError as away:
            _log.warning("%s The run stays RUNNING there.", away)


def describe_end(record: TrialRecord) -> dict[str, str]:
    """Tags of a trial's MLflow run: how it ended, and where the search gave it up."""
    tags = {"sweep.outcome": record.state, "sweep.trial": str(record.number)}
    if record.state == "pruned":
        tags |= {"sweep.pruned_at_step": str(record.steps),
                 "sweep.pruned_at_epoch": f"{record.epochs:g}"}  # fmt: skip
    if record.reason is not None:
        tags["sweep.reason"] = record.reason[:500]
    return tags


def _why(trial: Trial) -> str:
    """A sentence on what Ray Tune was told of a trial's failure."""
    error = trial.get_pickled_error()
    if isinstance(error, ray.exceptions.OutOfMemoryError):
        return "Memory ran out on its machine, and its process was killed."
    if isinstance(error, ray.exceptions.RayActorError):
        return (
            "Its process died: killed by hand or by the system, which does so when memory is short."
        )
    cause = getattr(error, "cause", None) or error
    if isinstance(cause, OUT_OF_MEMORY):
        return f"Memory ran out: {explain(cause)}"
    return "Unknown to Ray Tune." if cause is None else explain(cause)
