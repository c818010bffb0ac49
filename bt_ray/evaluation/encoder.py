"""The encoder that a user names: a run, a checkpoint, a registered version, a file of weights."""

import tempfile
from pathlib import Path

from bt_ray.checkpoints.checkpoint import MANIFEST, last_checkpoint, verify_checkpoint
from bt_ray.config import Settings
from bt_ray.errors import CheckpointError
from bt_ray.model.pretrained import (
    WEIGHT_SUFFIXES,
    Pretrained,
    load_file_of_weights,
    load_folder,
)
from bt_ray.tracking.mlflow import MlflowRun
from bt_ray.tracking.mlflow_record import recorded_run
from bt_ray.tracking.mlflow_store import tracking_uri


def open_encoder(reference: str, settings: Settings) -> tuple[Pretrained, MlflowRun | None]:
    """The encoder that `reference` means, in eval mode, and the run that trained it, if known.

    Args:
      reference: a run's folder (its last whole checkpoint), a checkpoint's folder,
        `models:/NAME/VERSION`, `models:/NAME@ALIAS`, `runs:/RUN_ID`, or a file of weights
        (.pth, .pt, .safetensors) in the layout of torchvision's ResNets.
      settings: `storage` tells where MLflow's records are, unless MLFLOW_TRACKING_URI does;
        `model` and `views.image_px` what a file of weights does not say of itself.
    Raises: CheckpointError if there is no such encoder, or it is of another architecture;
      TrackingError if the registry does not answer or does not know it.
    """
    if reference.startswith(("models:/", "runs:/")):
        return _registered(reference, tracking_uri(settings.storage))
    place = Path(reference).expanduser().resolve()
    if place.suffix in WEIGHT_SUFFIXES and place.is_file():
        return load_file_of_weights(place, settings), None
    if (place / MANIFEST).is_file():
        verify_checkpoint(place)
        return load_folder(place), recorded_run(place.parent.parent)
    checkpoint, _ = last_checkpoint(place)
    if checkpoint is None:
        raise CheckpointError(
            f"{reference!r} is no encoder: give a run's folder, a checkpoint, models:/NAME@ALIAS, "
            f"models:/NAME/VERSION, runs:/RUN_ID, or a file ({', '.join(WEIGHT_SUFFIXES)})."
        )
    return load_folder(checkpoint), recorded_run(place)


def _registered(reference: str, uri: str) -> tuple[Pretrained, MlflowRun]:
    from bt_ray.tracking.registry import fetch_encoder  # here: it takes seconds to import

    with tempfile.TemporaryDirectory() as folder:
        found, run_id = fetch_encoder(reference, uri, Path(folder))
        return load_folder(found), MlflowRun(uri, run_id)
