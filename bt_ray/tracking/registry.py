"""The model registry: a run's encoder as a version that anyone loads by name."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import cast

import mlflow
import numpy as np
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema, TensorSpec

import bt_ray
from bt_ray.config import SETTINGS_FILE, Settings
from bt_ray.errors import TrackingError
from bt_ray.model.encoder import build_encoder
from bt_ray.model.weights import ENCODER
from bt_ray.tracking.mlflow import MlflowRun, answering

CHAMPION = "champion"
"""Alias of the version that is to be used, and beaten."""
_REQUIREMENTS = ("torch", "torchvision", "safetensors", "pillow", "numpy", "pandas", "pyarrow")


def register_encoder(run: MlflowRun, checkpoint: Path, settings: Settings) -> str:
    """Registers the encoder in `checkpoint` under the run's model name.

    Load it with `mlflow.pyfunc.load_model("models:/NAME/VERSION")`: a table with a column
    `image` of encoded images becomes representations (n, F).

    Returns: the version, or the one that this run registered before.
    Raises: TrackingError.
    """
    with answering(run.uri) as client:
        return _register(client, run, checkpoint, settings)


def _register(client: MlflowClient, run: MlflowRun, checkpoint: Path, settings: Settings) -> str:
    name = settings.registered_model
    known = client.search_model_versions(f"name = '{name}' and run_id = '{run.run_id}'")
    if known:
        return str(max(int(found.version) for found in known))
    num_features = cast(int, build_encoder(settings.model).num_features)
    with _tracking_at(run.uri), mlflow.start_run(run_id=run.run_id):
        logged = mlflow.pyfunc.log_model(
            name="encoder",
            python_model=str(Path(__file__).with_name("mlflow_encoder.py")),
            artifacts={
                "weights": str(checkpoint / ENCODER),
                "settings": str(checkpoint / SETTINGS_FILE),
            },
            code_paths=[str(Path(bt_ray.__file__).parent)],
            pip_requirements=[f"{package}=={version(package)}" for package in _REQUIREMENTS],
            signature=ModelSignature(
                inputs=Schema([ColSpec("binary", "image")]),
                outputs=Schema([TensorSpec(np.dtype("float32"), (-1, num_features))]),
            ),
            registered_model_name=name,
        )
    return str(logged.registered_model_version)


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
    Raises: TrackingError if the server does not answer or knows nothing of that name.
    """
    with answering(uri) as client:
        version = _find_version(client, reference)
        with _tracking_at(uri):
            folder = mlflow.artifacts.download_artifacts(
                artifact_uri=f"models:/{version.name}/{version.version}", dst_path=str(destination)
            )
        return Path(folder, "artifacts"), str(version.run_id)


def _find_version(client: MlflowClient, reference: str) -> ModelVersion:
    kind, _, rest = reference.partition(":/")
    if kind == "runs":
        versions = client.search_model_versions(f"run_id = '{rest}'")
        if not versions:
            raise TrackingError(f"Run {rest} registered no encoder; give its run folder instead.")
        return max(versions, key=lambda found: int(found.version))
    if "@" in rest:
        name, _, alias = rest.partition("@")
        return client.get_model_version_by_alias(name, alias)
    name, _, number = rest.partition("/")
    return client.get_model_version(name, number)


@contextmanager
def _tracking_at(uri: str) -> Iterator[None]:
    """MLflow's global tracking server, set for a while.

    `set_tracking_uri` also sets the environment variable that says where *other* runs go.
    """
    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)  # type: ignore[arg-type]
