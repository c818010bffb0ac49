"""Optuna's study of a sweep: opened, brought in line with the records, told how trials ended."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.exceptions import OptunaError
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from bt_ray.errors import LaunchError
from bt_ray.tuning.records import Records, TrialRecord
from bt_ray.tuning.space import Params, SearchSpace

Search = Literal["tpe", "random", "grid"]
"""How values are proposed, once the points have been tried: by Optuna's tree-structured Parzen
estimator, at random, or the space's grid alone."""

RETRY_OF = "retry_of"
"""Attribute of a trial of the study that repeats an earlier one: its number."""
_LOCK_WAIT_S = 20
_WORST = 0.0  # no score is below


def study_url(folder: Path) -> str:
    """Where a sweep's study is kept if nobody says otherwise."""
    return f"sqlite:///{folder}/study.db"


@contextmanager
def answering_study(url: str) -> Iterator[None]:
    """Makes one sentence of whatever goes wrong with a study's storage."""
    try:
        yield
    except (SQLAlchemyError, OptunaError, ImportError) as error:
        cause = error.__cause__ or error
        reason = str(getattr(cause, "orig", None) or cause).splitlines()[0][:200]
        raise LaunchError(
            f"Optuna's study in {_without_password(url)} cannot be used ({reason}). If another "
            "process holds it, wait for that one. If it is damaged, move it away: the same command "
            "makes it anew from the trials' records. Or give another --study."
        ) from error


def _without_password(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def open_study_storage(url: str) -> optuna.storages.RDBStorage:
    """A database that studies are kept in, made if need be.

    Raises: LaunchError if it is damaged, locked for long, or does not answer.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    wait = {"connect_args": {"timeout": _LOCK_WAIT_S}} if url.startswith("sqlite") else {}
    with answering_study(url):
        return optuna.storages.RDBStorage(url, engine_kwargs=wait)


def build_sampler(
    search: Search, *, seed: int, begun: int, trials: int
) -> optuna.samplers.BaseSampler:
    """What proposes values.

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


def number_of(trial: optuna.trial.FrozenTrial) -> int:
    """The sweep's number of a trial of the study; a repeated one keeps that of the first go."""
    return int(trial.user_attrs.get(RETRY_OF, trial.number))


def reconcile(study: optuna.Study, space: SearchSpace, records: Records) -> list[int]:
    """Tells the study of all trials that have ended, and finds those that have not.

    Trials of which there are only records, since the study was lost, are added to it.

    Returns: ids of the study's trials that were begun and have not ended.
    """
    known = {number_of(trial) for trial in study.get_trials(deepcopy=False)}
    lost = [record for record in records if record.number not in known]
    for record in lost:
        study.add_trial(_placeholder(study, space, record))
    unfinished = []
    for trial in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
        ended = records.read(number_of(trial))
        if ended is None:
            unfinished.append(trial._trial_id)
        else:
            tell(study, optuna.Trial(study, trial._trial_id), ended)
    return unfinished


def _placeholder(
    study: optuna.Study, space: SearchSpace, record: TrialRecord
) -> optuna.trial.FrozenTrial:
    """A trial of the study for a record, as if it had just been begun."""
    drawn = optuna.trial.FixedTrial(record.params)
    space.propose(drawn)
    return optuna.create_trial(
        state=TrialState.RUNNING,
        params=drawn.params,
        distributions=drawn.distributions,
        user_attrs={RETRY_OF: record.number},
    )


def begin_again(study: optuna.Study, space: SearchSpace, records: Records) -> list[int]:
    """Sets the records of failed trials aside, and begins each again in the study.

    Returns: ids of the study's trials, those included that an earlier start began again and did
      not end.
    """
    failed = [record for record in records if record.state == "failed"]
    for record in failed:
        study.add_trial(_placeholder(study, space, record))
        records.set_aside(record.number)
    return [
        trial._trial_id
        for trial in study.get_trials(deepcopy=False, states=[TrialState.RUNNING])
        if RETRY_OF in trial.user_attrs
    ]


def enqueue(study: optuna.Study, points: Sequence[Params]) -> None:
    """Has the points tried first; those that are waiting or were tried are not tried again."""
    for point in points:
        study.enqueue_trial(point, skip_if_exists=True)


def tell(study: optuna.Study, trial: optuna.Trial, record: TrialRecord) -> None:
    """Ends a trial of the study as its record says.

    A diverged one is worse than any other; a failed one says nothing about its settings.
    """
    reported = study._storage.get_trial(trial._trial_id).intermediate_values
    for epoch, score in record.scores.items():
        if round(epoch) not in reported:
            trial.report(score, round(epoch))
    for name, value in _facts(record).items():
        trial.set_user_attr(name, value)
    match record.state:
        case "finished":
            study.tell(trial, record.score)
        case "diverged":
            study.tell(trial, _WORST)
        case "pruned":
            study.tell(trial, state=TrialState.PRUNED)
        case "failed":
            study.tell(trial, state=TrialState.FAIL)


def _facts(record: TrialRecord) -> dict[str, Any]:
    facts = {"outcome": record.state, "run": record.name, "reason": record.reason}
    return {name: value for name, value in facts.items() if value is not None}


def replay(study: optuna.Study, report: Callable[[int, float, float], None]) -> None:
    """Reports every score that the study holds: the trial's number, epoch and score."""
    for trial in study.get_trials(deepcopy=False):
        for epoch, score in sorted(trial.intermediate_values.items()):
            report(number_of(trial), epoch, score)
