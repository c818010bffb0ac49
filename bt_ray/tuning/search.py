"""Ray Tune's search and scheduler for a sweep: Optuna is told the truth, stops come at a step."""

import json
from typing import Any, NamedTuple, cast

import optuna
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch
from ray.tune.search.searcher import Searcher

from bt_ray.training.stop import StopRequest
from bt_ray.tuning.space import SearchSpace
from bt_ray.tuning.study import answering_study, number_of, tell
from bt_ray.tuning.trial import PRUNED, TrialOrder


class _Earlier(NamedTuple):
    """What ASHA needs to know of a trial."""

    trial_id: str


class StudySearch(OptunaSearch):
    """OptunaSearch that continues a study, and tells it how each trial really ended.

    Ray's own, of version 2.60, tells Optuna that a pruned trial is COMPLETE, that a diverged one
    FAILED, and begins anew whatever a study says was begun. Here the trials' records say how they
    ended; a trial without one stays RUNNING in the study, and is gone on with by the next start.
    """

    def __init__(
        self,
        space: SearchSpace,
        study_name: str,
        storage: optuna.storages.BaseStorage,
        sampler: optuna.samplers.BaseSampler,
        order: TrialOrder,
    ) -> None:
        super().__init__(
            lambda trial: {"changes": dict(space.propose(trial))},
            metric="score",
            mode="max",
            sampler=sampler,
            study_name=study_name,
            storage=storage,
        )
        self._order, self._sweep_space = order, space
        self.begun: list[int] = []
        """Ids of the study's trials to be gone on with, before new ones are proposed."""
        self.stopping = False
        """Whether no further trial shall begin."""
        self.numbers: dict[str, int] = {}
        """The sweep's number of each trial, by Ray Tune's id."""

    @property
    def study(self) -> optuna.Study:
        """Optuna's."""
        return cast(optuna.Study, self._ot_study)

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The next trial's number, what was drawn for it, and what changes by it."""
        if self.stopping:
            return Searcher.FINISHED  # type: ignore[return-value]
        if self.begun:
            self._ot_trials[trial_id] = optuna.Trial(self.study, self.begun.pop(0))
        with answering_study(self._order.study):
            drawn = super().suggest(trial_id) or {}
            trial = self._ot_trials[trial_id]
            frozen = self.study._storage.get_trial(trial._trial_id)
        self.numbers[trial_id] = number_of(frozen)
        return {
            "number": self.numbers[trial_id],
            "params": frozen.params,
            "changes": drawn["changes"],
        }

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Keeps a score of a trial that goes on."""
        trial = self._ot_trials[trial_id]
        epoch = round(result["epoch"])
        if "score" in result and epoch not in trial._cached_frozen_trial.intermediate_values:
            trial.report(result["score"], epoch)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tells the study how the trial ended, if it did."""
        record = self._order.records.read(self.numbers[trial_id])
        if record is not None:
            tell(self.study, self._ot_trials[trial_id], record)

    def save(self, checkpoint_path: str) -> None:
        """Does nothing: the study is kept in its storage."""

    def restore(self, checkpoint_path: str) -> None:
        """Does nothing, as `save` does."""


class HalvingStops(ASHAScheduler):
    """ASHA whose stops are asked for, so that a trial ends at a step, with a checkpoint.

    Were a trial's process killed, as Ray Tune does, its MLflow run would stay RUNNING.
    """

    def __init__(
        self, order: TrialOrder, *, epochs: int, grace_epochs: float, reduction: float
    ) -> None:
        super().__init__(
            time_attr="epoch",
            metric="score",
            mode="max",
            max_t=epochs,
            grace_period=grace_epochs,  # type: ignore[arg-type]  # compared with epochs, whole or not
            reduction_factor=reduction,
        )
        self._order, self._epochs = order, epochs

    def on_trial_result(
        self, tune_controller: TuneController | None, trial: Trial, result: dict[str, Any]
    ) -> str:
        """Lets every trial go on; those that ASHA would stop are asked to."""
        decision = super().on_trial_result(tune_controller, trial, result)  # type: ignore[arg-type]
        if decision == TrialScheduler.STOP and result["epoch"] < self._epochs:
            run_folder = self._order.run_folder(trial.config["number"])
            reason = {"epoch": result["epoch"], "score": result["score"]}
            (run_folder / PRUNED).write_text(json.dumps(reason))
            StopRequest(run_folder).make()
        return TrialScheduler.CONTINUE

    def recall(self, number: int, epoch: float, score: float) -> None:
        """Counts a score of an earlier start among those that later ones are compared with."""
        earlier = _Earlier(f"earlier-{number}")
        self._brackets[0].on_result(earlier, epoch, score)  # type: ignore[arg-type]
