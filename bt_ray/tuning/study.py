"""Optuna's study of a sweep: opened, brought in line with the records, told how trials ended."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import check_distribution_compatibility
from optuna.trial import FrozenTrial, TrialState

from bt_ray.errors import SettingsError
from bt_ray.tuning.records import Records, TrialRecord
from bt_ray.tuning.space import Params, SearchSpace
from bt_ray.tuning.study_storage import open_study_storage

_SWEEP = "sweep"
"""Attribute of the study: the identity and the folder of the sweep that it belongs to."""
RETRY_OF = "retry_of"
"""Attribute of a trial of the study that repeats an earlier one: its number."""
_WORST = 0.0  # no score is below


def number_of(trial: optuna.Trial | FrozenTrial) -> int:
    """The sweep's number of a trial of the study; one that repeats another has that one's."""
    return int(trial.user_attrs.get(RETRY_OF, trial.number))


class SweepStudy:
    """A sweep's study, opened or made.

    Trials are named by their number in the study, which `number_of` turns into the sweep's.

    Args:
      url: of the database.
      records: what came of the trials that have ended.
    Raises: LaunchError as `open_study_storage` does.
    """

    def __init__(self, url: str, name: str, space: SearchSpace, records: Records) -> None:
        self._storage = open_study_storage(url)
        self._space, self._records = space, records
        self.optuna = optuna.create_study(
            storage=self._storage,
            pruner=optuna.pruners.NopPruner(),
            study_name=name,
            direction="maximize",
            load_if_exists=True,
        )
        """Optuna's study; its sampler and its pruner may be replaced."""

    def claim(self, identity: str, folder: Path) -> None:
        """Takes the study for a sweep; a database that many use may hold another of its name.

        Raises: SettingsError if it belongs to another sweep.
        """
        theirs = self.optuna.user_attrs.get(_SWEEP)
        if theirs is None:
            self.optuna.set_user_attr(_SWEEP, [identity, str(folder)])
        elif theirs[0] != identity:
            raise SettingsError(
                f"The database of --study holds a study {self.optuna.study_name!r} of another "
                f"sweep, that of {theirs[1]}: give this one another --name, or another --study."
            )

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """The study's trials in these states, or all of them, by number."""
        return self.optuna.get_trials(deepcopy=False, states=states or None)

    def count_begun(self) -> int:
        """Trials of the sweep that have begun; one that was repeated counts once."""
        begun = (trial for trial in self.trials() if trial.state != TrialState.WAITING)
        return len({number_of(trial) for trial in begun})

    def reopen(self, number: int) -> optuna.Trial:
        """A trial that an earlier process began, to be continued or ended."""
        study_id = self._storage.get_study_id_from_name(self.optuna.study_name)
        trial_id = self._storage.get_trial_id_from_study_id_trial_number(study_id, number)
        return optuna.Trial(self.optuna, trial_id)

    def check_space(self) -> None:
        """Sees that the space draws what the study's trials drew, if it has been edited since.

        Ranges of numbers may change; choices, and the kind of a range, may not.

        Raises: SettingsError.
        """
        now = self._space.distributions()
        for trial in self.trials():
            for name, before in trial.distributions.items():
                if name not in now:
                    continue
                try:
                    check_distribution_compatibility(before, now[name])
                except ValueError as error:
                    raise self._edited(
                        f"trial {number_of(trial)} drew {name!r} from {before}, and now it is "
                        f"drawn from {now[name]}"
                    ) from error

    def _edited(self, how: str) -> SettingsError:
        return SettingsError(
            f"The search space {self._space.name!r} was edited since this sweep began: {how}. Undo "
            "that to continue the sweep, or begin another one by another --name."
        )

    def reconcile(self) -> list[int]:
        """Tells the study of all trials that have ended, and finds those that have not.

        Trials of which there are only records, since the study was lost, are added to it.

        Returns: numbers of the trials that were begun and have not ended.
        """
        known = {number_of(trial) for trial in self.trials()}
        for record in self._records:
            if record.number not in known:
                self._begin(record)
        unfinished = []
        for trial in self.trials(TrialState.RUNNING):
            ended = self._records.read(number_of(trial))
            if ended is None:
                unfinished.append(trial.number)
            else:
                self.tell(self.reopen(trial.number), ended)
        return unfinished

    def begin_again(self) -> list[int]:
        """Sets the records of failed trials aside, and begins each again in the study.

        Returns: numbers of the trials that repeat others and have not ended, those of earlier
          starts included.
        """
        for record in [record for record in self._records if record.state == "failed"]:
            self._begin(record)
            self._records.set_aside(record.number)
        return [t.number for t in self.trials(TrialState.RUNNING) if RETRY_OF in t.user_attrs]

    def _begin(self, record: TrialRecord) -> None:
        """Adds a running trial with what the record's trial drew. Raises: SettingsError."""
        drawn = optuna.trial.FixedTrial(record.params)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # a value that lies outside of its range
                self._space.propose(drawn)
            made = optuna.create_trial(
                state=TrialState.RUNNING,
                params=drawn.params,
                distributions=drawn.distributions,
                user_attrs={RETRY_OF: record.number},
            )
        except (ValueError, UserWarning) as error:
            raise self._edited(
                f"it cannot draw {record.params}, as trial {record.number} did ({error})"
            ) from error
        self.optuna.add_trial(made)

    def enqueue(self, points: Sequence[Params]) -> None:
        """Has the points tried first; those that are waiting or were tried are not tried again."""
        for point in points:
            self.optuna.enqueue_trial(point, skip_if_exists=True)

    def note(self, trial: optuna.Trial, epoch: float, score: float) -> bool:
        """Notes a score of a trial on its way; the first of each whole epoch counts.

        Returns: whether the pruner gives the trial up for it.
        """
        if round(epoch) in self.trials()[trial.number].intermediate_values:
            return False
        trial.report(score, round(epoch))
        return trial.should_prune()

    def tell(self, trial: optuna.Trial, record: TrialRecord) -> None:
        """Ends a trial of the study as its record says.

        A diverged one is worse than any other; a failed one says nothing about its settings, but
        for one that does not fit into memory: the search shall avoid its like.
        """
        for epoch, score in record.scores.items():
            self.note(trial, epoch, score)
        for name, value in _facts(record).items():
            trial.set_user_attr(name, value)
        match record.state:
            case "finished":
                self.optuna.tell(trial, record.score)
            case "diverged":
                self.optuna.tell(trial, _WORST)
            case "pruned":
                self.optuna.tell(trial, state=TrialState.PRUNED)
            case "failed" if record.needed_bytes is not None:
                self.optuna.tell(trial, state=TrialState.PRUNED)
            case "failed":
                self.optuna.tell(trial, state=TrialState.FAIL)


def _facts(record: TrialRecord) -> dict[str, Any]:
    facts = {"outcome": record.state, "run": record.name, "reason": record.reason}
    return {name: value for name, value in facts.items() if value is not None}
