"""Optuna's study of a sweep: opened, brought in line with the records, told how trials ended."""

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import check_distribution_compatibility
from optuna.exceptions import OptunaError
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from bt_ray.errors import BtRayError, LaunchError, SettingsError
from bt_ray.redaction import redact, without_credentials
from bt_ray.tuning.order import Search, SweepOrder
from bt_ray.tuning.records import Records, TrialRecord
from bt_ray.tuning.space import Params, SearchSpace

RETRY_OF = "retry_of"
"""Attribute of a trial of the study that repeats an earlier one: its number."""
_LOCK_WAIT_S = 20
_WORST = 0.0  # no score is below


def study_url(folder: Path) -> str:
    """Where a sweep's study is kept if nobody says otherwise."""
    return f"sqlite:///{folder}/study.db"


@contextmanager
def answering_study(url: str, *more: type[Exception]) -> Iterator[None]:
    """Makes one sentence of whatever goes wrong with a study's storage.

    Args:
      more: errors that are taken for the storage's, beside those of Optuna and of databases.
    Raises: LaunchError in their place.
    """
    theirs: tuple[type[Exception], ...] = (SQLAlchemyError, OptunaError, ImportError, *more)
    try:
        yield
    except BtRayError:
        raise
    except theirs as error:
        cause = error.__cause__ or error
        lines = str(getattr(cause, "orig", None) or cause).splitlines() or [type(cause).__name__]
        reason = redact(lines[0], url)[:200]
        raise LaunchError(
            f"Optuna's study in {without_credentials(url)} cannot be used ({reason}). If another "
            "process holds it, wait for that one. If it is damaged, move it away: the same command "
            "makes it anew from the trials' records. Or give another --study."
        ) from error


def open_study_storage(url: str) -> optuna.storages.RDBStorage:
    """The database of this URL, with Optuna's tables; it is made if it does not exist.

    Raises: LaunchError if it is damaged, locked for long, or does not answer.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    wait = {"connect_args": {"timeout": _LOCK_WAIT_S}} if url.startswith("sqlite") else {}
    with answering_study(url, ValueError, OSError):  # of a URL that is none
        return optuna.storages.RDBStorage(url, engine_kwargs=wait)


def build_sampler(
    search: Search, *, seed: int, begun: int, trials: int
) -> optuna.samplers.BaseSampler:
    """Optuna's sampler, which proposes values.

    Args:
      begun: trials that the study has already, so that a sweep that is continued does not draw
        again what it drew first.
      trials: of the whole sweep; half of few are drawn at random before the estimator starts.
    """
    if search == "tpe":
        return optuna.samplers.TPESampler(
            seed=seed + begun, n_startup_trials=min(10, math.ceil(trials / 2)), constant_liar=True
        )
    return optuna.samplers.RandomSampler(seed=seed + begun)


def build_pruner(order: SweepOrder, epochs: int) -> optuna.pruners.BasePruner:
    """Optuna's pruner, which says whether a trial lags behind.

    Args:
      epochs: of a whole trial.
    """
    if order.pruning == "none":
        return optuna.pruners.NopPruner()
    return optuna.pruners.SuccessiveHalvingPruner(
        min_resource=order.grace_epochs or max(1, round(epochs / 9)),
        reduction_factor=order.reduction,
    )


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

        A diverged one is worse than any other; a failed one says nothing about its settings.
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
            case "failed":
                self.optuna.tell(trial, state=TrialState.FAIL)


def _facts(record: TrialRecord) -> dict[str, Any]:
    facts = {"outcome": record.state, "run": record.name, "reason": record.reason}
    return {name: value for name, value in facts.items() if value is not None}
