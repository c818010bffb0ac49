"""Which version has an alias: the better one by what was measured, or the one before it."""

from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from bt_ray.errors import RegistryError
from bt_ray.tracking.mlflow import answering, is_there
from bt_ray.tracking.registry_alias import (
    CHAMPION,
    Move,
    history_of,
    holder_of,
    move_alias,
    version_before,
)
from bt_ray.tracking.registry_facts import RunFacts, versions_of
from bt_ray.tracking.registry_scores import Measured, measures_of

_NOTHING = "RESOURCE_DOES_NOT_EXIST"
_MOST_NAMED = 4


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of an alias.

    `version` has it now, and `before` had it before; `measure`, `score` and `score_before` are what
    was compared, by `protocol`; `changed` is false if the version had the alias already.
    """

    model_version: str
    alias: str
    changed: bool
    before: str | None
    sentence: str
    measure: str | None = None
    protocol: str | None = None
    score: float | None = None
    score_before: float | None = None
    reason: str | None = None


def promote(
    uri: str,
    name: str,
    version: str,
    *,
    alias: str = CHAMPION,
    by: str | None = None,
    margin: float = 0.0,
    anyway: str | None = None,
) -> Outcome:
    """Gives a version the alias if it was measured to be better than the version that has it.

    Better means more, by over `margin`, and by over the spread over seeds where a sweep measured
    that; in a measure that both have, by the same protocol.

    Args:
      by: name of the measure that decides; none: the most telling one that both have.
      anyway: a reason to do it whatever was measured; it is kept in the version's tags.
    Raises: RegistryError if it is not better, was measured otherwise, there is no such version, or
      somebody else moves the alias meanwhile; TrackingError.
    """
    if anyway is not None and not anyway.strip():
        raise RegistryError("--anyway needs a reason, which is kept with the version.")
    with answering(uri) as client:
        candidate = _version(client, name, version)
        outcome = _decide(client, candidate, alias, by, margin, anyway)
        if not outcome.changed:
            return outcome
        move = Move(
            version=version,
            before=None if outcome.before is None else outcome.before.rpartition("/")[2],
            kind="promoted",
            why=outcome.sentence,
        )
        _check_unmoved(client, name, alias, move.before)
        move_alias(client, name, alias, move)
        tags = {
            f"{alias}.promoted": outcome.sentence,
            f"{alias}.compared_with": outcome.before or "none",
        }
        if anyway is not None:
            tags[f"{alias}.anyway"] = anyway
        for key, value in tags.items():
            client.set_model_version_tag(name, version, key, value)
        _check_unmoved(client, name, alias, version)
        return outcome


def _check_unmoved(client: MlflowClient, name: str, alias: str, expected: str | None) -> None:
    """Raises RegistryError if somebody else moved the alias meanwhile."""
    present = holder_of(client, name, alias)
    found = None if present is None else present.version
    if found != expected:
        raise RegistryError(
            f"Somebody else moved {alias} of {name} at the same time, to version {found}, and it "
            "stays there: give the command again to compare with that."
        )


def _decide(
    client: MlflowClient,
    candidate: ModelVersion,
    alias: str,
    by: str | None,
    margin: float,
    anyway: str | None,
) -> Outcome:
    """What is to become of the alias. Raises: RegistryError if it is to stay where it is."""
    title = f"{candidate.name}/{candidate.version}"
    present = holder_of(client, candidate.name, alias)
    if present is None:
        sentence = f"{title} is {alias}: no version was before."
        return Outcome(
            model_version=title, alias=alias, changed=True, before=None,
            sentence=_with_reason(sentence, anyway), reason=anyway,
        )  # fmt: skip
    other = f"{candidate.name}/{present.version}"
    if present.version == str(candidate.version):
        sentence = f"{title} is {alias} already."
        return Outcome(
            model_version=title, alias=alias, changed=False, before=None, sentence=sentence
        )
    mine = measures(client, candidate)
    theirs = measures(client, _version(client, candidate.name, present.version))
    pairs = _comparable(mine, theirs, by)
    if not pairs:
        if anyway is None:
            raise RegistryError(_not_alike(title, mine, other, alias, theirs, by))
        sentence = f"{title} is {alias} in place of {other}; they were not measured alike."
        return Outcome(
            model_version=title, alias=alias, changed=True, before=other,
            sentence=_with_reason(sentence, anyway), reason=anyway,
        )  # fmt: skip
    one, two = pairs[0]
    needed = max(margin, one.spread or 0.0)
    is_better = one.value - two.value > needed
    told = (
        f"{one.name} is {one.value:.4f}, and that of {other} ({alias}) {two.value:.4f}; both by "
        f"{one.protocol}."
    )
    if not is_better and anyway is None:
        short = "not better" if needed == 0 else f"not better by more than {needed:.4f}"
        raise RegistryError(
            f"{title} is {short}, and does not become {alias}: its {told} --anyway 'REASON' "
            "promotes it all the same, and keeps the reason."
        )
    return Outcome(
        model_version=title, alias=alias, changed=True, before=other, measure=one.name,
        protocol=one.protocol, score=one.value, score_before=two.value, reason=anyway,
        sentence=_with_reason(f"{title} is {alias} in place of {other}: its {told}", anyway),
    )  # fmt: skip


def _with_reason(sentence: str, anyway: str | None) -> str:
    return sentence if anyway is None else f"{sentence} Promoted anyway: {anyway}"


def measures(client: MlflowClient, version: ModelVersion) -> list[Measured]:
    """What was measured of a version. Raises: what MLflow raises."""
    run_id = version.run_id
    is_known = run_id is not None and is_there(client, run_id)
    return measures_of(version, RunFacts(client, str(run_id)) if is_known else None)


def _comparable(
    mine: list[Measured], theirs: list[Measured], by: str | None
) -> list[tuple[Measured, Measured]]:
    """Pairs of one measure by one protocol, the most telling first."""
    known = {(one.name, one.protocol): one for one in theirs}
    return [
        (one, known[one.name, one.protocol])
        for one in mine
        if (one.name, one.protocol) in known and by in (None, one.name)
    ]


def _not_alike(
    title: str,
    mine: list[Measured],
    other: str,
    alias: str,
    theirs: list[Measured],
    by: str | None,
) -> str:
    measure = f"{by} of {title} and of" if by else f"{title} and"
    return (
        f"{measure} {other} ({alias}) was not measured alike, and so the alias stays. "
        f"{title}: {_named(mine, by)}. {other}: {_named(theirs, by)}. Measure both by the same "
        f"images and options, `python -m pipelines.evaluate knn models:/{title}` and … "
        f"models:/{other}, or give --anyway 'REASON'."
    )


def _named(found: list[Measured], by: str | None) -> str:
    told = [f"{one.name} ({one.protocol})" for one in found if by in (None, one.name)]
    more = f" and {len(told) - _MOST_NAMED} more" if len(told) > _MOST_NAMED else ""
    return "; ".join(told[:_MOST_NAMED]) + more if told else "nothing was measured"


def roll_back(uri: str, name: str, *, alias: str = CHAMPION, why: str | None = None) -> Outcome:
    """Gives the alias back to the version that had it before; the history is kept in tags.

    Raises: RegistryError if no version had it before; TrackingError.
    """
    with answering(uri) as client:
        there = {str(found.version) for found in versions_of(client, name)}
        if not there:
            raise _no_model(name)
        present = holder_of(client, name, alias)
        if present is None:
            raise RegistryError(f"No version of {name} is {alias}; there is nothing to roll back.")
        version = version_before(history_of(client, name, alias), present.version, there)
        if version is None:
            raise RegistryError(
                f"No other version of {name} was {alias} before version {present.version}, or it "
                "was deleted. `python -m pipelines.register promote NAME/VERSION` names one."
            )
        sentence = f"{name}/{version} is {alias} again, in place of {name}/{present.version}."
        if why is not None:
            sentence += f" {why}"
        client.set_model_version_tag(name, present.version, f"{alias}.rolled_back", sentence)
        move = Move(version=version, before=present.version, kind="rolled back", why=sentence)
        move_alias(client, name, alias, move)
        return Outcome(
            model_version=f"{name}/{version}", alias=alias, changed=True,
            before=f"{name}/{present.version}", sentence=sentence, reason=why,
        )  # fmt: skip


def _version(client: MlflowClient, name: str, version: str) -> ModelVersion:
    try:
        return client.get_model_version(name, version)
    except MlflowException as error:
        if error.error_code not in (_NOTHING, "INVALID_PARAMETER_VALUE"):
            raise
        raise RegistryError(
            f"There is no version {name}/{version}; `python -m pipelines.register list` tells "
            "which there are."
        ) from error


def _no_model(name: str) -> RegistryError:
    return RegistryError(
        f"There is no version of a model {name!r}; `python -m pipelines.register list` tells "
        "which there are."
    )
