"""The model registry: a run's encoder as a version that anyone loads by name."""

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from bt_ray import __version__
from bt_ray.checkpoints.average import Weights, averaged_copy, without_average
from bt_ray.checkpoints.checkpoint import find_checkpoint
from bt_ray.config import Settings
from bt_ray.errors import TrackingError
from bt_ray.model.weights import ENCODER
from bt_ray.redaction import without_credentials
from bt_ray.storage.working_copy import place_of
from bt_ray.tracking.mlflow import MlflowRun, answering, status_of
from bt_ray.tracking.registry_card import attach_card, write_card
from bt_ray.tracking.registry_facts import RunFacts
from bt_ray.tracking.registry_files import digest_of, save_model, step_of
from bt_ray.tracking.registry_scores import AVERAGED, STEP, WEIGHTS

_MODEL = "encoder"
_LICENCE = "license"
_ONE_AT_A_TIME = threading.Lock()
_MAKER = "bt_ray"
"""Tag of a model: the version of bt_ray that wrote to it last."""


def reserve_name(uri: str, name: str) -> None:
    """Makes the registered model of this name, still without a version, if there is none.

    A registry that refuses the name, or to be written to, says so before anything is trained.

    Raises: TrackingError.
    """
    with answering(uri) as client:
        try:
            _make_model(client, name)
            client.set_registered_model_tag(name, _MAKER, __version__)
        except MlflowException as error:
            why = "it is not this user's to edit" if status_of(error) == 403 else error.message
            raise TrackingError(
                f"The model registry refuses the model {name!r} ({why}). Nothing was "
                "trained: give another --tracking.registered-model, or the right to make it."
            ) from error


def _make_model(client: MlflowClient, name: str) -> None:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def register_encoder(
    run: MlflowRun,
    checkpoint: Path,
    settings: Settings,
    *,
    licence: str | None = None,
    weights: Weights = "plain",
) -> str:
    """Registers the encoder in `checkpoint` under the run's model name, with its model card.

    Load it with `mlflow.pyfunc.load_model("models:/NAME/VERSION")`: a table with a column
    `image` of encoded images becomes representations (n, F). The card is the version's description,
    and README.md among the model's files. If this run has registered the same step before, that
    version's card is written anew, with what was measured since.

    Args:
      licence: of the weights, for the card.
      weights: which of the checkpoint's; the averaged ones are a version of their own.
    Returns: the version.
    Raises: TrackingError; CheckpointError.
    """
    if weights == "plain":
        return _register_weights(run, checkpoint, settings, licence, {})
    with averaged_copy(checkpoint) as folder:
        decay = str(settings.training.average_decay)
        return _register_weights(run, folder, settings, licence, {AVERAGED: decay})


def _register_weights(
    run: MlflowRun, checkpoint: Path, settings: Settings, licence: str | None, tags: dict[str, str]
) -> str:
    """The version of the encoder in a checkpoint's folder.

    Args:
      tags: what else a new version is tagged with.
    """
    name, digest, step = settings.registered_model, digest_of(checkpoint), step_of(checkpoint)
    with answering(run.uri) as client:
        known = _find_known(client, run, name, step, AVERAGED in tags)
        tags = tags | {WEIGHTS: digest} | ({} if step is None else {STEP: str(step)})
        version = known or _register(client, run, checkpoint, name, tags)
        if licence is not None:
            client.set_model_version_tag(name, version.version, _LICENCE, licence)
        told = licence or version.tags.get(_LICENCE)
        facts = RunFacts(client, run.run_id)
        card = write_card(
            settings, facts, step=step, licence=told, weights=digest, averaged=AVERAGED in tags
        )
        attach_card(client, version, card)
        return _first_of_equals(client, run, version, step, AVERAGED in tags)


def _register(
    client: MlflowClient, run: MlflowRun, checkpoint: Path, name: str, tags: dict[str, str]
) -> ModelVersion:
    """Logs the model with its run, and makes it a version, whatever run is active here."""
    experiment_id = client.get_run(run.run_id).info.experiment_id
    logged = client.create_logged_model(experiment_id, _MODEL, source_run_id=run.run_id)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / _MODEL
        save_model(folder, checkpoint, run_id=run.run_id, logged=logged)
        client.log_model_artifacts(logged.model_id, str(folder))
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(run.run_id, [LoggedModelOutput(logged.model_id, step=0)])
    _make_model(client, name)
    with _tracking_at(run.uri):
        return client.create_model_version(
            name,
            f"models:/{logged.model_id}",
            run_id=run.run_id,
            model_id=logged.model_id,
            tags=tags,
        )


@contextmanager
def _tracking_at(uri: str) -> Iterator[None]:
    """MLflow's global tracking server, set for a while: it resolves `models:/…` by that.

    `set_tracking_uri` also sets the environment variable that says where *other* runs go.
    """
    with _ONE_AT_A_TIME:
        before = os.environ.get("MLFLOW_TRACKING_URI")
        mlflow.set_tracking_uri(uri)
        try:
            yield
        finally:
            mlflow.set_tracking_uri(before)  # type: ignore[arg-type]


def _find_known(
    client: MlflowClient, run: MlflowRun, name: str, step: int | None, averaged: bool
) -> ModelVersion | None:
    """The first version that the run registered of this step, which has the same weights.

    Averaged weights are others than those that were trained.
    Of checkpoints and versions of older bt_rays, which do not tell their step, there is one a run.
    """
    found = [
        version
        for version in client.search_model_versions(f"run_id = '{run.run_id}'")
        if version.name == name
        and (AVERAGED in version.tags) is averaged
        and (step is None or version.tags.get(STEP, str(step)) == str(step))
    ]
    return min(found, key=lambda version: int(version.version), default=None)


def _first_of_equals(
    client: MlflowClient, run: MlflowRun, version: ModelVersion, step: int | None, averaged: bool
) -> str:
    """The version, or an earlier one of the same step that another process made just now."""
    first = _find_known(client, run, version.name, step, averaged) or version
    if int(first.version) < int(version.version):
        with suppress(MlflowException):  # who may not delete leaves two of a kind
            client.delete_model_version(version.name, version.version)
    return str(first.version)


def card_of(reference: str, run: MlflowRun, settings: Settings, weights: str) -> str:
    """The model card of an encoder that a user named (`evaluation.encoder`), written now.

    Args:
      run: that trained it; `settings`: its settings; `weights`: the digest of its weights.
    Raises: TrackingError if the server does not answer, or does not know the run.
    """
    with answering(run.uri) as client:
        step, licence, averaged = None, None, False
        if reference.startswith(("models:/", "runs:/")):
            tags = find_version(client, reference).tags
            step, licence = int(tags[STEP]) if STEP in tags else None, tags.get(_LICENCE)
            averaged = AVERAGED in tags
        else:
            named, averaged = without_average(reference)
            checkpoint = find_checkpoint(place_of(named))
            step = None if checkpoint is None else step_of(checkpoint)
        facts = RunFacts(client, run.run_id)
        return write_card(
            settings, facts, step=step, licence=licence, weights=weights, averaged=averaged
        )


def fetch_encoder(reference: str, uri: str, destination: Path) -> tuple[Path, str]:
    """Downloads a registered encoder: a folder with its weights and settings, and its run's id.

    Args:
      reference: `models:/NAME/VERSION`, `models:/NAME@ALIAS`, or `runs:/RUN_ID` for the last
        version that a run registered.
    Raises: TrackingError if the server does not answer or knows nothing of that name, or the
      model's files are not where they are recorded.
    """
    with answering(uri) as client:
        version = find_version(client, reference)
        with suppress(FileNotFoundError):  # of some stores; others send nothing
            _download(version, uri, destination)
        if not (destination / "artifacts" / ENCODER).is_file():
            place = client.get_model_version_download_uri(version.name, version.version)
            raise TrackingError(
                f"The files of {reference} are recorded at {without_credentials(place)}, and are "
                "not there: bring them back, or give the folder of the run in place of its model."
            )
        return destination / "artifacts", str(version.run_id)


def _download(version: ModelVersion, uri: str, destination: Path) -> None:
    """Copies a version's files into a folder, whatever server MLflow is set to in this process."""
    with _tracking_at(uri):
        mlflow.artifacts.download_artifacts(
            artifact_uri=f"models:/{version.name}/{version.version}", dst_path=str(destination)
        )


def find_version(client: MlflowClient, reference: str) -> ModelVersion:
    """The version that a reference means, as `fetch_encoder` reads it.

    Raises: TrackingError if a run registered none; what MLflow raises.
    """
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
