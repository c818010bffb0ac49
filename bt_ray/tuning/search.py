"""Ray Tune's search for a sweep: Optuna proposes trials, judges them and learns how they ended."""

from typing import Any

import optuna
from ray.tune.search import Searcher

from bt_ray.tuning.space import SearchSpace
from bt_ray.tuning.study import SweepStudy, number_of
from bt_ray.tuning.trial import PRUNED, TrialOrder


class StudySearch(Searcher):
    """Proposes the trials that are to be continued, then those that Optuna draws.

    A trial's record says how it ended. One without a record stays RUNNING in the study, and the
    next start continues it.

    Args:
      begun: numbers of the study's trials that are to be continued.
      epochs: of a whole trial.
    """

    def __init__(
        self,
        study: SweepStudy,
        space: SearchSpace,
        order: TrialOrder,
        *,
        begun: list[int],
        epochs: int,
    ) -> None:
        super().__init__()
        self._study, self._space, self._order = study, space, order
        self._begun, self._epochs = begun, epochs
        self._trials: dict[str, optuna.Trial] = {}  # by Ray Tune's id
        self.stopping = False
        """Whether no further trial shall begin."""

    def suggest(self, trial_id: str) -> dict[str, Any] | str:  # type: ignore[override]
        """The next trial's number in the sweep, what was drawn for it, and what changes by it."""
        if self.stopping:
            return self.FINISHED
        study = self._study
        trial = study.reopen(self._begun.pop(0)) if self._begun else study.optuna.ask()
        self._trials[trial_id] = trial
        changes = dict(self._space.propose(trial))
        return {"number": number_of(trial), "params": trial.params, "changes": changes}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Notes a score; a trial that lags behind is marked, and then asked to stop."""
        if "score" not in result:
            return
        trial = self._trials[trial_id]
        lags = self._study.note(trial, result["epoch"], result["score"])
        if lags and result["epoch"] < self._epochs:
            (self._order.run_folder(number_of(trial)) / PRUNED).touch()

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tells the study how the trial ended, if it did."""
        trial = self._trials[trial_id]
        record = self._order.records.read(number_of(trial))
        if record is not None:
            self._study.tell(trial, record)

    def save(self, checkpoint_path: str) -> None:
        """Does nothing: the study is kept in its storage."""
