"""A new run that starts from another run's weights (`model.start_from`)."""

from pathlib import Path

from bt_ray.checkpoints.checkpoint import find_checkpoint, settings_of
from bt_ray.checkpoints.manifest import Manifest
from bt_ray.config import Settings
from bt_ray.errors import CheckpointError
from bt_ray.model.twins import Twins
from bt_ray.model.weights import ENCODER, file_of, load_weights
from bt_ray.storage.working_copy import place_of


def find_start(settings: Settings) -> Path:
    """The checkpoint that `model.start_from` names: itself, or the last one of a run's folder.

    Raises: CheckpointError if there is none that is whole, or its encoder is another one.
    """
    place = place_of(settings.model.start_from or "")
    checkpoint = find_checkpoint(place)
    if checkpoint is None:
        raise CheckpointError(
            f"model.start_from={place} is no checkpoint, and no run's folder with a complete one."
        )
    ours, theirs = settings.model, settings_of(checkpoint).model
    if (theirs.encoder, theirs.stem) != (ours.encoder, ours.stem):
        raise CheckpointError(
            f"Checkpoint {checkpoint} holds a {theirs.encoder} ({theirs.stem} stem), and "
            f"model.encoder={ours.encoder} ({ours.stem} stem) differs; give the same."
        )
    return checkpoint


def load_start(twins: Twins, settings: Settings) -> None:
    """Fills new twins with the weights that `model.start_from` names.

    Those of the projector only if it is built alike, and then those of the predictor likewise.
    """
    checkpoint = find_start(settings)
    manifest = Manifest.read(checkpoint)
    load_weights(twins.encoder, manifest.require(ENCODER))
    ours, theirs = settings.model, settings_of(checkpoint).model
    if (ours.projector_widths, ours.projector_batch_norm) != (
        theirs.projector_widths,
        theirs.projector_batch_norm,
    ):
        return
    load_weights(twins.projector, manifest.require(file_of("projector")))
    if twins.predictor is not None and ours.predictor_widths == theirs.predictor_widths:
        load_weights(twins.predictor, manifest.require(file_of("predictor")))
