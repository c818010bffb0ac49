"""A new run that starts from another run's weights (`model.start_from`)."""

from pathlib import Path

from bt_ray.checkpoints.checkpoint import MANIFEST, last_checkpoint, verify_checkpoint
from bt_ray.config import SETTINGS_FILE, ModelSettings, Settings, from_json
from bt_ray.errors import CheckpointError
from bt_ray.model.twins import Twins
from bt_ray.model.weights import ENCODER, file_of, load_weights


def find_start(settings: Settings) -> Path:
    """The checkpoint that `model.start_from` names: itself, or the last one of a run's folder.

    Raises: CheckpointError if there is none that is whole, or its encoder is another one.
    """
    place = Path(settings.model.start_from or "")
    if (place / MANIFEST).is_file():
        verify_checkpoint(place)
        checkpoint: Path | None = place
    else:
        checkpoint, _ = last_checkpoint(place)
    if checkpoint is None:
        raise CheckpointError(
            f"model.start_from={place} is no checkpoint, and no run's folder with a complete one."
        )
    ours, theirs = settings.model, _model_of(checkpoint)
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
    load_weights(twins.encoder, checkpoint / ENCODER)
    ours, theirs = settings.model, _model_of(checkpoint)
    if (ours.projector_widths, ours.projector_batch_norm) != (
        theirs.projector_widths,
        theirs.projector_batch_norm,
    ):
        return
    load_weights(twins.projector, checkpoint / file_of("projector"))
    if twins.predictor is not None and ours.predictor_widths == theirs.predictor_widths:
        load_weights(twins.predictor, checkpoint / file_of("predictor"))


def _model_of(checkpoint: Path) -> ModelSettings:
    return from_json((checkpoint / SETTINGS_FILE).read_text()).model
