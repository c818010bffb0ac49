"""The model registry: a run's encoder as a version that anyone loads by name."""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from bt_ray.config import Settings
from bt_ray.errors import TrackingError
from bt_ray.model.weights import ENCODER
from bt_ray.redaction import without_credentials
from bt_ray.tracking.mlflow import MlflowRun, answering
from bt_ray.tracking.registry_files import save_model

CHAMPION = "champion"
"""Alias of the version that is to be used, and beaten."""
_MODEL = "encoder"


def reserve_name(uri: str, name: str) -> None:
    """Makes the registered model of this name, still without a version, if there is none.

    A registry that refuses the name, or to be written to, says so before anything is trained.

    Raises: TrackingError.
    """
    with answering(uri) as client:
        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise TrackingError(
                    f"The model registry refuses the model {name!r} ({error.message}). Nothing was "
                    "trained: give another --tracking.registered-model, or the right to make it."
                ) from error


def register_encoder(run: MlflowRun, checkpoint: Path, settings: Settings) -> str:
    """Registers the encoder in `checkpoint` under the run's model name.

    Load it with `mlflow.pyfunc.load_model("models:/NAME/VERSION")`: a table with a column
    `image` of encoded images becomes representations (n, F).

    Returns: the version, or the one that this run registered before.
    Raises: TrackingError.
    """
    name = settings.registered_model
    with answering(run.uri) as client:
        found = client.search_model_versions(f"run_id = '{run.run_id}'")
        known = [int(version.version) for version in found if version.name == name]
        if known:
            return str(max(known))
        with _tracking_at(run.uri):
            return _register(client, run, checkpoint, name)


def _register(client: MlflowClient, run: MlflowRun, checkpoint: Path, name: str) -> str:
    """Logs the model with its run, and makes it a version, whatever run is active here."""
    experiment_id = client.get_run(run.run_id).info.experiment_id
    logged = client.create_logged_model(experiment_id, _MODEL, source_run_id=run.run_id)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / _MODEL
        save_model(folder, checkpoint, run_id=run.run_id, logged=logged)
        client.log_model_artifacts(logged.model_id, str(folder))
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(run.run_id, [LoggedModelOutput(logged.model_id, step=0)])
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    version = client.create_model_version(
        name, f"models:/{logged.model_id}", run_id=run.run_id, model_id=logged.model_id
    )
    return str(version.version)


@dataclass(frozen=True)
class Champion:
    """The version that an alias of a model stands for, and what is written on it."""

    version: str
    tags: Mapping[str, str]


def find_champion(uri: str, name: str, alias: str = CHAMPION) -> Champion | None:
    """The version of model `name` that `alias` stands for; none if there is none.

    Raises: TrackingError if the server does not answer.
    """
    with answering(uri) as client:
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
    """Writes a description and tags on a version. Raises: TrackingError."""
    with answering(uri) as client:
        client.update_model_version(name, version, description)
        for key, value in tags.items():
            client.set_model_version_tag(name, version, key, value)


def give_alias(uri: str, name: str, version: str, alias: str = CHAMPION) -> None:
    """Has `alias` stand for this version, and for no other. Raises: TrackingError."""
    with answering(uri) as client:
        client.set_registered_model_alias(name, alias, version)


def fetch_encoder(reference: str, uri: str, destination: Path) -> tuple[Path, str]:
    """Downloads a registered encoder: a folder with its weights and settings, and its run's id.

    Args:
      reference: `models:/NAME/VERSION`, `models:/NAME@ALIAS`, or `runs:/RUN_ID` for the last
        version that a run registered.
    Raises: TrackingError if the server does not answer or knows nothing of that name, or the
      model's files are not where they are recorded.
    """
    with answering(uri) as client:
        version = _find_version(client, reference)
        place = client.get_model_version_download_uri(version.name, version.version)
        with _tracking_at(uri), suppress(FileNotFoundError):  # of some stores; others send nothing
            mlflow.artifacts.download_artifacts(
                artifact_uri=f"models:/{version.name}/{version.version}", dst_path=str(destination)
            )
        if not (destination / "artifacts" / ENCODER).is_file():
            raise TrackingError(
                f"The files of {reference} are recorded at {without_credentials(place)}, and are "
                "not there: bring them back, or give the folder of the run in place of its model."
            )
        return destination / "artifacts", str(version.run_id)


def _find_version(client: MlflowClient, reference: str) -> ModelVersion:
    kind, _, rest = reference.partition(":/")
    if kind == "runs":
        versions = client.search_model_versions(f"run_id = '{rest}'")
        if not versions:
            raise TrackingError(f"Run {rest} registered no encoder; give its run folder instead.")
        return max(versions, key=lambda found: int(found.version))
    if "@" in rest:
        name, _, alias = rest.rpartition("@")
        return client.get_model_version_by_alias(name, alias)
    name, _, number = rest.rpartition("/")
    return client.get_model_version(name, number)


@contextmanager
def _tracking_at(uri: str) -> Iterator[None]:
    """MLflow's global tracking server, set for a while: it resolves `models:/…` by that.

    `set_tracking_uri` also sets the environment variable that says where *other* runs go.
    """
    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)  # type: ignore[arg-type]
