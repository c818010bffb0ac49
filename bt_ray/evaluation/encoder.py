"""The encoder that a user names: a run, a checkpoint, a registered version, a file of weights."""

import tempfile
from dataclasses import replace
from pathlib import Path

from bt_ray.checkpoints.average import require_average, without_average
from bt_ray.checkpoints.checkpoint import find_checkpoint
from bt_ray.checkpoints.manifest import MANIFEST, Manifest, find_file
from bt_ray.config import SETTINGS_FILE, Settings
from bt_ray.data.shards.moved import follow_storage
from bt_ray.errors import CheckpointError
from bt_ray.model.average import AVERAGE
from bt_ray.model.pretrained import (
    WEIGHT_SUFFIXES,
    Pretrained,
    load_file_of_weights,
    load_folder,
)
from bt_ray.model.weights import ENCODER
from bt_ray.storage.names import is_far
from bt_ray.storage.working_copy import place_of
from bt_ray.tracking.mlflow import MlflowRun
from bt_ray.tracking.mlflow_record import recorded_run
from bt_ray.tracking.mlflow_store import tracking_uri


def open_encoder(reference: str, settings: Settings) -> tuple[Pretrained, MlflowRun | None]:
    """The encoder that `reference` means, in eval mode, and the run that trained it, if known.

    Args:
      reference: a run's folder (its last whole checkpoint), the folder `best` in it (its best one),
        a checkpoint's folder, each with `/average` for the averaged weights, or URIs of such,
        `models:/NAME/VERSION`, `models:/NAME@ALIAS`, `runs:/RUN_ID`, or a file of weights
        (.pth, .pt, .safetensors) in the layout of torchvision's ResNets.
      settings: `storage` tells where MLflow's records are, unless MLFLOW_TRACKING_URI does;
        `model` and `views.image_px` what a file of weights does not say of itself.
    Raises: CheckpointError if there is no such encoder, or it is of another architecture;
      TrackingError if the registry does not answer or does not know it.
    """
    if reference.startswith(("models:/", "runs:/")):
        return _registered(reference, settings.storage, tracking_uri(settings.storage))
    named, is_average = without_average(reference)
    place = place_of(named)
    if place.suffix in WEIGHT_SUFFIXES and place.is_file():
        return load_file_of_weights(place, settings), None
    checkpoint = find_checkpoint(place)
    if checkpoint is None:
        raise CheckpointError(
            f"{reference!r} is no encoder: give a run's folder, a checkpoint, models:/NAME@ALIAS, "
            f"models:/NAME/VERSION, runs:/RUN_ID, or a file ({', '.join(WEIGHT_SUFFIXES)})."
        )
    if is_average:
        require_average(checkpoint)
    pretrained = load_folder(checkpoint, AVERAGE if is_average else ENCODER)
    return _followed(pretrained, checkpoint), recorded_run(checkpoint.parent.parent)


def _followed(pretrained: Pretrained, place: Path) -> Pretrained:
    """The encoder, whose settings name its images where they lie now."""
    return replace(pretrained, settings=follow_storage(pretrained.settings, place))


def _registered(reference: str, storage: str, uri: str) -> tuple[Pretrained, MlflowRun]:
    from bt_ray.tracking.registry import fetch_encoder  # here: it takes seconds to import

    with tempfile.TemporaryDirectory() as folder:
        found, run_id = fetch_encoder(reference, uri, Path(folder))
        try:
            _check_files(found)
        except CheckpointError as error:
            raise CheckpointError(
                f"The files of {reference} are not to be used: {error}"
            ) from error
        place = place_of(storage) if not is_far(storage) else found
        return _followed(load_folder(found), place), MlflowRun(uri, run_id)


def _check_files(folder: Path) -> None:
    """Raises CheckpointError for registered files that are missing, links, or not as registered.

    Versions that were registered without the checkpoint's manifest have no sums to be held to.
    """
    names = (ENCODER, SETTINGS_FILE)
    if (folder / MANIFEST).exists():
        Manifest.read(folder).verify(names)
    for name in names:
        try:
            find_file(folder, name)
        except FileNotFoundError as error:
            raise CheckpointError(f"{name} is missing.") from error
