"""The encoder that a user names: a run, a checkpoint, a registered version, a file of weights."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from bt_ray.checkpoints.average import require_average, without_average
from bt_ray.checkpoints.checkpoint import find_checkpoint
from bt_ray.checkpoints.manifest import MANIFEST, Manifest, find_file
from bt_ray.checkpoints.start import START
from bt_ray.config import SETTINGS_FILE, Settings
from bt_ray.data.shards.moved import follow_storage
from bt_ray.errors import CheckpointError
from bt_ray.model.average import AVERAGE
from bt_ray.model.pretrained import Pretrained, load_file_of_weights, load_folder
from bt_ray.model.published import fetch_weights, is_published, is_registered
from bt_ray.model.weights import ENCODER
from bt_ray.model.weights_file import WEIGHT_SUFFIXES, is_weight_file
from bt_ray.storage.names import folder_of, is_far
from bt_ray.storage.working_copy import place_of
from bt_ray.tracking.mlflow import MlflowRun
from bt_ray.tracking.mlflow_record import recorded_run
from bt_ray.tracking.mlflow_store import tracking_uri


def open_encoder(reference: str, settings: Settings) -> tuple[Pretrained, MlflowRun | None]:
    """The encoder that `reference` means, in eval mode, and the run that trained it, if known.

    Args:
      reference: a run's folder (its last whole checkpoint), the folder `best` in it (its best one),
        a checkpoint's folder, each with `/average` for the averaged weights, or URIs of such,
        `models:/NAME/VERSION`, `models:/NAME@ALIAS`, `runs:/RUN_ID`, a file of weights (.pth, .pt,
        .bin, .safetensors, …), or published ones (`model.published`).
      settings: `storage` tells where MLflow's records are, unless MLFLOW_TRACKING_URI does;
        `model`, `data.channels` and `views.image_px` what weights do not say of themselves.
    Raises: CheckpointError if there is no such encoder, or it is of another architecture;
      TrackingError if the registry does not answer or does not know it.
    """
    if is_registered(reference):
        return _registered(reference, settings.storage)
    if is_published(reference):
        return load_file_of_weights(fetch_weights(reference), settings), None
    named, is_average = without_average(reference)
    place = place_of(named)
    if is_weight_file(place):
        return load_file_of_weights(place, settings), None
    checkpoint = find_checkpoint(place)
    if checkpoint is None:
        raise CheckpointError(
            f"{reference!r} is no encoder: give a run's folder, a checkpoint, models:/NAME@ALIAS, "
            "models:/NAME/VERSION, runs:/RUN_ID, timm:NAME, torchvision:WEIGHTS, hf:REPOSITORY, or "
            f"a file ({', '.join(WEIGHT_SUFFIXES)})."
        )
    if is_average:
        require_average(checkpoint)
    pretrained = load_folder(checkpoint, AVERAGE if is_average else ENCODER)
    run_folder = checkpoint.parent.parent
    return _followed(pretrained, checkpoint, run_folder), recorded_run(run_folder)


def _followed(pretrained: Pretrained, place: Path, run_folder: Path) -> Pretrained:
    """The encoder, whose settings name its images where they lie now."""
    settings = follow_storage(pretrained.settings, place)
    return replace(pretrained, settings=settings, start=run_folder / START)


def _registered(reference: str, storage: str) -> tuple[Pretrained, MlflowRun]:
    with registered_files(reference, storage) as (found, run):
        place = place_of(storage) if not is_far(storage) else found
        pretrained = load_folder(found)
        run_folder = folder_of(storage) / pretrained.settings.name
        return _followed(pretrained, place, run_folder), run


@contextmanager
def registered_files(reference: str, storage: str) -> Iterator[tuple[Path, MlflowRun]]:
    """A folder with a registered encoder's weights and settings, for a while, and its run.

    Raises: CheckpointError if they are not as registered; TrackingError.
    """
    from bt_ray.tracking.registry import fetch_encoder  # here: it takes seconds to import

    uri = tracking_uri(storage)
    with tempfile.TemporaryDirectory() as folder:
        found, run_id = fetch_encoder(reference, uri, Path(folder))
        try:
            _check_files(found)
        except CheckpointError as error:
            raise CheckpointError(
                f"The files of {reference} are not to be used: {error}"
            ) from error
        yield found, MlflowRun(uri, run_id)


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
