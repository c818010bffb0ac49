"""Ray Tune's search for a sweep: Optuna proposes trials, judges them and learns how they ended."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import optuna
from ray.tune.search import Searcher

from bt_ray.tuning.fitting import Misfit, Place, check_memory
from bt_ray.tuning.records import TrialRecord
from bt_ray.tuning.space import Changes, Params, SearchSpace
from bt_ray.tuning.study import SweepStudy, number_of
from bt_ray.tuning.study_storage import patiently
from bt_ray.tuning.trial import PRUNED, TrialOrder, describe


class StudySearch(Searcher):
    """Proposes the trials that are to be continued, then those that Optuna draws.

    A trial's record says how it ended. One without a record stays RUNNING in the study, and the
    next start continues it.

    Args:
      begun: numbers of the study's trials that are to be continued.
      left: how many trials are still to come, those among them.
      epochs: of a whole trial.
      room: how many trials may run side by side now; none: any number.
      place: where a trial's workers find memory; trials that do not fit there are recorded as
        failed, and never begin. None: not known.
    """

    def __init__(
        self,
        study: SweepStudy,
        space: SearchSpace,
        order: TrialOrder,
        *,
        begun: list[int],
        left: int,
        epochs: int,
        room: Callable[[], int] | None = None,
        place: Place | None = None,
    ) -> None:
        super().__init__()
        self._study, self._space, self._order = study, space, order
        self._begun, self._left, self._epochs = begun, left, epochs
        self._room, self._place = room, place
        self._trials: dict[str, optuna.Trial] = {}  # by Ray Tune's id
        self._running = set[str]()  # those that have not ended, by the same
        self._misfits: list[TrialRecord] = []
        self.stopping = False
        """Whether no further trial shall begin."""

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """The next trial's number in the sweep, what was drawn for it, and what changes by it.

        None while there is no room for it.
        """
        while self._left and not self.stopping:
            if self._room is not None and len(self._running) >= self._room():
                return None
            trial = patiently(self._begin)
            self._left -= 1
            changes = dict(patiently(partial(self._space.propose, trial)))
            if self._fits(trial, changes):
                self._trials[trial_id] = trial
                self._running.add(trial_id)
                return {"number": number_of(trial), "params": trial.params, "changes": changes}
        return self.FINISHED

    def _begin(self) -> optuna.Trial:
        """The next trial that was begun, or else a new one."""
        if not self._begun:
            return self._study.optuna.ask()
        trial = self._study.reopen(self._begun[0])
        self._begun.pop(0)
        return trial

    def _fits(self, trial: optuna.Trial, changes: Changes) -> bool:
        """Whether the trial fits into memory; if not, that is recorded, and the trial has ended."""
        number = number_of(trial)
        misfit = self._check(number, changes)
        if misfit is None:
            return True
        why = (
            f"Trial {number} ({_drawn(trial.params)}) does not fit into memory and was not begun: "
            f"{misfit.reason}"
        )
        record = describe(self._order, number, trial.params, changes, "failed", why,
                          needed_bytes=misfit.needed_bytes)  # fmt: skip
        self._order.records.keep(record)
        patiently(lambda: self._study.tell(trial, record))
        self._misfits.append(record)
        return False

    def _check(self, number: int, changes: Changes) -> Misfit | None:
        """What keeps a trial from fitting; none if nothing does, or it cannot be told."""
        if self._place is None:
            return None
        try:
            return check_memory(self._order.trial_settings(number, changes), self._place)
        except Exception:  # whatever it is, the trial will fail of it, and say so
            return None

    def foresee(self, points: Sequence[Params]) -> list[str]:
        """Sentences on points that are still to be tried, and will not fit into memory."""
        tried = [trial.params for trial in self._study.trials()]
        ahead = [point for point in points if point not in tried]
        found = [
            (point, self._check(0, self._space.propose(optuna.trial.FixedTrial(point))))
            for point in ahead
        ]
        return [
            f"A trial ({_drawn(point)}) will not fit into memory and be passed over: "
            f"{misfit.reason}"
            for point, misfit in found
            if misfit is not None
        ]

    def take_misfits(self) -> list[TrialRecord]:
        """Records of trials that do not fit, each told once."""
        found, self._misfits = self._misfits, []
        return found

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Notes a score; a trial that lags behind is marked, and then asked to stop."""
        if "score" not in result:
            return
        trial = self._trials[trial_id]
        lags = patiently(lambda: self._study.note(trial, result["epoch"], result["score"]))
        if lags and result["epoch"] < self._epochs:
            (self._order.run_folder(number_of(trial)) / PRUNED).touch()

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tells the study how the trial ended, if it did."""
        self._running.discard(trial_id)
        trial = self._trials[trial_id]
        record = self._order.records.read(number_of(trial))
        if record is not None:
            patiently(lambda: self._study.tell(trial, record))

    def save(self, checkpoint_path: str) -> None:
        """Does nothing: the study is kept in its storage."""


def _drawn(params: Params) -> str:
    return ", ".join(f"{name}={value}" for name, value in params.items())
