"""All models of a registry: their versions, aliases and what was measured of them."""

from dataclasses import dataclass
from typing import Any

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion, RegisteredModel

from bt_ray.errors import RegistryError
from bt_ray.tracking.mlflow import answering
from bt_ray.tracking.registry_alias import Move, history_of
from bt_ray.tracking.registry_facts import all_pages, versions_of
from bt_ray.tracking.registry_promotion import measures
from bt_ray.tracking.registry_scores import Measured


@dataclass(frozen=True, kw_only=True)
class Version:
    """A version of a model."""

    version: str
    aliases: tuple[str, ...]
    run_id: str
    created_ms: int
    status: str
    measures: tuple[Measured, ...]
    tags: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model, its versions from the newest on, and the changes of each alias."""

    name: str
    versions: tuple[Version, ...]
    history: dict[str, list[Move]]


def list_models(uri: str, name: str | None = None) -> list[Model]:
    """The models of the registry, or the one of this name.

    Raises: RegistryError if there is none of this name; TrackingError.
    """
    with answering(uri) as client:
        found = [m for m in all_pages(client.search_registered_models) if name in (None, m.name)]
        if name is not None and not found:
            raise RegistryError(
                f"There is no model {name!r}; `python -m pipelines.register list` tells which "
                "there are."
            )
        return [_model(client, model) for model in found]


def _model(client: MlflowClient, model: RegisteredModel) -> Model:
    found = versions_of(client, model.name)
    aliases = dict(model.aliases)
    keys = {key.partition(".history.")[0] for key in model.tags if ".history." in key}
    return Model(
        name=model.name,
        versions=tuple(_version(client, version, aliases) for version in reversed(found)),
        history={alias: history_of(client, model.name, alias) for alias in sorted(keys)},
    )


def _version(client: MlflowClient, version: ModelVersion, aliases: dict[str, Any]) -> Version:
    return Version(
        version=str(version.version),
        aliases=tuple(
            sorted(a for a, held in aliases.items() if str(held) == str(version.version))
        ),
        run_id=str(version.run_id or ""),
        created_ms=int(version.creation_timestamp or 0),
        status=str(version.status),
        measures=tuple(measures(client, version)),
        tags=dict(version.tags),
    )
