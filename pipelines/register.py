"""The model registry: `python -m pipelines.register list|register|promote|roll-back …`."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.table import Table

from bt_ray.errors import RegistryError
from pipelines.terminal import command, console, finish, guarded

if TYPE_CHECKING:
    from bt_ray.tracking.registry_list import Model, Version
    from bt_ray.tracking.registry_promotion import Outcome

_MOST_SCORES = 3


@dataclass(frozen=True, kw_only=True)
class Registry:
    """Where the registry is, and what is printed."""

    storage: str = "runs"
    """Folder of all runs; the registry is there, unless MLFLOW_TRACKING_URI names a server."""
    json: bool = False
    """Print the line of JSON alone, without words for people."""

    def uri(self) -> str:
        """Of the registry."""
        from bt_ray.tracking.mlflow_store import tracking_uri

        return tracking_uri(self.storage_path())

    def storage_path(self) -> str:
        """The storage as an absolute path."""
        from bt_ray.storage.names import absolute

        return absolute(self.storage)


@dataclass(frozen=True, kw_only=True)
class ListOrder(Registry):
    """Lists models, their versions, aliases and scores."""

    name: Annotated[str | None, tyro.conf.Positional] = None
    """A model; none: all."""


@dataclass(frozen=True, kw_only=True)
class RegisterOrder(Registry):
    """Adds the encoder of a finished run, or of a checkpoint, with its model card.

    The run's same weights are registered once; given again, the command writes the card anew, with
    what was measured since.
    """

    encoder: Annotated[str, tyro.conf.Positional]
    """A run's folder, name or MLflow id, or the folder of a checkpoint."""
    name: str | None = None
    """Name of the model; none: as the run's settings have it."""
    checkpoint: Literal["last", "best"] = "last"
    """Which of a run's checkpoints; a run keeps a best one by --training.keep-best."""
    weights: Literal["plain", "average"] = "plain"
    """Which of the checkpoint's weights: those that were trained, or their moving average, which
    a run has by --training.average-decay."""
    license: str | None = None
    """Licence of the weights, for the card."""


@dataclass(frozen=True, kw_only=True)
class PromoteOrder(Registry):
    """Gives a version the alias, if it was measured to be better than the version that has it."""

    version: Annotated[str, tyro.conf.Positional]
    """NAME/VERSION."""
    alias: str = "champion"
    """The alias."""
    by: str | None = None
    """Name of the measure that decides, as `list --json` tells; none: the most telling one that
    both have."""
    margin: float = 0.0
    """What it must be better by; at least the spread over seeds, where a sweep measured that."""
    anyway: str | None = None
    """A reason to promote it whatever was measured; kept with the version."""


@dataclass(frozen=True, kw_only=True)
class RollBackOrder(Registry):
    """Gives the alias back to the version that had it before."""

    name: Annotated[str, tyro.conf.Positional]
    """The model."""
    alias: str = "champion"
    """The alias."""
    why: str | None = None
    """A reason, which is kept."""


def list_models(order: ListOrder) -> dict[str, Any]:
    """Prints a table; the record of all that is registered."""
    from bt_ray.tracking.registry_list import list_models as ask

    models = ask(order.uri(), order.name)
    if not order.json:
        _show(models)
    return {"models": [_model(model) for model in models]}


def _model(model: "Model") -> dict[str, Any]:
    return {
        "name": model.name,
        "aliases": {a: one.version for one in model.versions for a in one.aliases},
        "versions": [
            asdict(one) | {"scores": _scores(one), "aliases": list(one.aliases)}
            for one in model.versions
        ],
        "history": {alias: [asdict(m) for m in moves] for alias, moves in model.history.items()},
    }


def _scores(version: "Version") -> dict[str, float]:
    """Each measure's value, by its first protocol; `measures` has all."""
    return {one.name: one.value for one in reversed(version.measures)}


def _show(models: "list[Model]") -> None:
    table = Table(title="Registered models")
    for heading in ("model", "version", "aliases", "scores", "run"):
        table.add_column(heading, overflow="fold")
    for model in models:
        for one in model.versions or [None]:
            if one is None:
                table.add_row(model.name, "none yet", "", "", "")
                continue
            best = list(reversed(_scores(one).items()))[:_MOST_SCORES]
            scores = ", ".join(f"{name} {value:.4f}" for name, value in best)
            told = scores or "not measured"
            table.add_row(model.name, one.version, ", ".join(one.aliases), told, one.run_id[:8])
    console.print(table)


def register(order: RegisterOrder) -> dict[str, Any]:
    """Registers an encoder; the record of its version."""
    from bt_ray.data.shards.shard_set import is_shards
    from bt_ray.storage.names import name_of
    from bt_ray.tracking.mlflow_inputs import record_inputs
    from bt_ray.tracking.registry import register_encoder
    from bt_ray.tracking.registry_source import find_source

    source = find_source(order.encoder, order.storage_path(), order.name, order.checkpoint)
    if is_shards(source.settings.data.train):
        record_inputs(source.run, source.settings)
    version = register_encoder(
        source.run,
        source.checkpoint,
        source.settings,
        licence=order.license,
        weights=order.weights,
    )
    name = source.settings.registered_model
    if not order.json:
        console.print(
            f"{name}/{version} is the encoder in {name_of(source.checkpoint)}.", soft_wrap=True
        )
    return {
        "run_id": source.run.run_id,
        "model_version": f"{name}/{version}",
        "paths": {"checkpoint": name_of(source.checkpoint), "mlflow": source.run.public_uri},
    }


def promote(order: PromoteOrder) -> dict[str, Any]:
    """Promotes a version; what was compared."""
    from bt_ray.tracking.registry_promotion import promote as ask

    name, _, version = order.version.removeprefix("models:/").rpartition("/")
    if not name or not version.isdecimal():
        raise RegistryError(
            f"{order.version!r} is no NAME/VERSION, such as barlow-mine/2; "
            "`python -m pipelines.register list` tells which there are."
        )
    return _told(
        order,
        ask(
            order.uri(), name, version,
            alias=order.alias, by=order.by, margin=order.margin, anyway=order.anyway,
        ),
    )  # fmt: skip


def roll_back(order: RollBackOrder) -> dict[str, Any]:
    """Rolls an alias back; the versions that had and have it."""
    from bt_ray.tracking.registry_promotion import roll_back as ask

    return _told(order, ask(order.uri(), order.name, alias=order.alias, why=order.why))


def _told(order: Registry, outcome: "Outcome") -> dict[str, Any]:
    if not order.json:
        console.print(outcome.sentence, soft_wrap=True)
    return asdict(outcome)


Order = (
    Annotated[ListOrder, tyro.conf.subcommand("list")]
    | Annotated[RegisterOrder, tyro.conf.subcommand("register")]
    | Annotated[PromoteOrder, tyro.conf.subcommand("promote")]
    | Annotated[RollBackOrder, tyro.conf.subcommand("roll-back")]
)
_COMMANDS: dict[type, Callable[[Any], dict[str, Any]]] = {
    ListOrder: list_models,
    RegisterOrder: register,
    PromoteOrder: promote,
    RollBackOrder: roll_back,
}


@command
def main() -> None:
    """Parses the command line, asks the registry, prints the answer."""
    order: Any = guarded(lambda: tyro.cli(Order, prog="python -m pipelines.register"))
    finish(guarded(lambda: _COMMANDS[type(order)](order)))


if __name__ == "__main__":
    main()
