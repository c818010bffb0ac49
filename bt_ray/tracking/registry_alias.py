"""Aliases of a model, such as `champion`: which version has one, and which had it before.

The registry keeps only where an alias points now. Every change is therefore noted in a tag of the
model, before it is made: `ALIAS.history.TIME.ID`, of which no two writers have the same. MLflow has
no lock and no compare-and-set: of two that change an alias at once, both are in the history.
"""

import json
import time
import uuid
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from bt_ray.redaction import redact
from bt_ray.tracking.mlflow import answering
from bt_ray.tracking.registry_card import shorten

CHAMPION = "champion"
"""Alias of the version that is to be used, and beaten."""
_MOST_WORDS = 2000


@dataclass(frozen=True)
class Champion:
    """The version that an alias of a model stands for, and what is written on it."""

    version: str
    tags: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Move:
    """A change of an alias: from version `before`, none if there was none, to `version`."""

    version: str
    before: str | None
    kind: str
    """`promoted`, or `rolled back`."""
    why: str
    time_ms: int = 0


def find_champion(uri: str, name: str, alias: str = CHAMPION) -> Champion | None:
    """The version of model `name` that `alias` stands for; none if there is none.

    Raises: TrackingError if the server does not answer.
    """
    with answering(uri) as client:
        return holder_of(client, name, alias)


def holder_of(client: MlflowClient, name: str, alias: str) -> Champion | None:
    """The same. Raises: what MLflow raises."""
    try:
        found = client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None  # the latter of a model without this alias
        raise
    return Champion(str(found.version), dict(found.tags))


def describe_version(
    uri: str, name: str, version: str, description: str, tags: Mapping[str, str]
) -> None:
    """Writes tags on a version, and a description before its model card. Raises: TrackingError."""
    with answering(uri) as client:
        known = str(client.get_model_version(name, version).description or "")
        _, heading, card = known.partition(f"# {name}\n")
        whole = f"{description}\n\n{heading}{card}" if heading else description
        client.update_model_version(name, version, shorten(whole))
        for key, value in tags.items():
            client.set_model_version_tag(name, version, key, value)


def give_alias(
    uri: str, name: str, version: str, alias: str = CHAMPION, *, why: str = "A sweep's winner."
) -> None:
    """Has `alias` stand for this version, and for no other; notes it. Raises: TrackingError."""
    with answering(uri) as client:
        before = holder_of(client, name, alias)
        if before is None or before.version != version:
            move = Move(
                version=version,
                before=None if before is None else before.version,
                kind="promoted",
                why=why,
            )
            move_alias(client, name, alias, move)


def move_alias(client: MlflowClient, name: str, alias: str, move: Move) -> None:
    """Notes a change, and makes it. Raises: what MLflow raises."""
    now = time.time_ns() // 1_000_000
    noted = asdict(move) | {"time_ms": now, "why": redact(move.why)[:_MOST_WORDS]}
    key = f"{alias}.history.{now:014d}.{uuid.uuid4().hex[:8]}"
    client.set_registered_model_tag(name, key, json.dumps(noted, ensure_ascii=False))
    client.set_registered_model_alias(name, alias, move.version)


def history_of(client: MlflowClient, name: str, alias: str) -> list[Move]:
    """All changes of an alias that were noted, in their order. Raises: what MLflow raises."""
    tags = client.get_registered_model(name).tags
    keys = sorted(key for key in tags if key.startswith(f"{alias}.history."))
    return [Move(**json.loads(tags[key])) for key in keys]


def version_before(moves: list[Move], now: str, there: Collection[str]) -> str | None:
    """The version that had the alias before the one that has it now; none if none had.

    What was rolled back is no longer before anything. An alias that somebody moved by hand, which
    is not noted, came after all that is.

    Args:
      there: the versions that have not been deleted.
    """
    stack: list[str] = []
    for move in moves:
        if move.kind == "rolled back":
            while stack and stack[-1] != move.version:
                stack.pop()
        elif move.before is not None and (not stack or stack[-1] != move.before):
            stack.append(move.before)
        if not stack or stack[-1] != move.version:
            stack.append(move.version)
    if stack and stack[-1] == now:
        stack.pop()
    return next(
        (version for version in reversed(stack) if version in there and version != now), None
    )
