"""From what `model.start_from` names to weights that fit a new run's encoder."""

import logging
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from bt_ray.checkpoints.average import require_average, without_average
from bt_ray.checkpoints.checkpoint import find_checkpoint, newest_checkpoint, settings_of
from bt_ray.checkpoints.manifest import sha256
from bt_ray.checkpoints.start import keep_start, kept_sha256, start_folder
from bt_ray.config import SETTINGS_FILE, Settings, read_settings
from bt_ray.errors import CheckpointError, RunFailedError
from bt_ray.model.average import AVERAGE
from bt_ray.model.encoder import build_encoder
from bt_ray.model.fit import fit
from bt_ray.model.inputs import shares
from bt_ray.model.pretrained import describe
from bt_ray.model.published import fetch_weights, is_published, is_registered, statistics_of
from bt_ray.model.weights import ENCODER, file_of
from bt_ray.model.weights_file import is_weight_file, read_tensors
from bt_ray.storage.working_copy import place_of

_log = logging.getLogger(__name__)
_OTHER_PARTS = {
    "projector": ("projector_widths", "projector_batch_norm", "projector_last_norm"),
    "predictor": ("projector_widths", "projector_batch_norm", "predictor_widths"),
}
"""Parts of the twins but the encoder, and the settings that must be equal for one to fit."""


@dataclass(frozen=True)
class FirstWeights:
    """Weights for a new run's twins, read and brought into their names and shapes."""

    parts: Mapping[str, Mapping[str, Tensor]]
    """Tensors by name: those of the encoder, and perhaps of the projector and predictor."""
    sha256: str
    """Of the file that the encoder's were read from."""
    notes: tuple[str, ...]
    """Sentences on what was left out or adapted."""


def settle_start(settings: Settings) -> Settings:
    """The settings with the sum of the first weights, once the run keeps these in its folder.

    What a run keeps already is not read anew from its source. Of a run that an earlier version
    began nothing is kept.

    Raises: CheckpointError if the weights cannot be had, do not fit, or have another sum;
      TrackingError; LaunchError; RunFailedError if they cannot be written.
    """
    if settings.model.start_from is None:
        return settings
    folder = start_folder(settings)
    known = kept_sha256(folder)
    if known is None:
        if newest_checkpoint(folder.parent)[0] is not None:
            return settings
        return _keep(folder, settings)
    _check_sum(known, settings)
    return _noting(known, settings)


def _keep(folder: Path, settings: Settings) -> Settings:
    first = find_first_weights(settings)
    settings = _noting(first.sha256, settings)
    try:
        keep_start(folder, settings, first.parts, first.notes)
    except OSError as error:
        raise RunFailedError(
            f"The weights that the run starts from cannot be written to {folder} "
            f"({error.strerror or error}). Make room, and repeat the command."
        ) from error
    return settings


def find_first_weights(settings: Settings) -> FirstWeights:
    """The weights that `model.start_from` names, as the settings' twins have them.

    A warning tells what was left out or adapted.

    Raises: CheckpointError if there are none, they cannot be downloaded, or are another encoder's;
      TrackingError; LaunchError.
    """
    name = settings.model.start_from or ""
    with ExitStack() as stack:
        if is_registered(name):
            from bt_ray.evaluation.encoder import registered_files  # it imports MLflow

            folder, _ = stack.enter_context(registered_files(name, settings.storage))
            first = _of_folder(folder, read_settings(folder / SETTINGS_FILE), settings)
        elif is_published(name):
            first = _of_file(fetch_weights(name), settings)
        else:
            first = _of_place(name, settings)
    _check_sum(first.sha256, settings)
    for note in (*first.notes, *_note_on_statistics(settings)):
        _log.warning("model.start_from=%s: %s.", name, note)
    return first


def _of_place(name: str, settings: Settings) -> FirstWeights:
    named, is_average = without_average(name)
    place = place_of(named)
    if is_weight_file(place):
        return _of_file(place, settings)
    checkpoint = find_checkpoint(place)
    if checkpoint is None:
        raise CheckpointError(
            f"model.start_from={place} is no checkpoint, no run's folder with a complete one, and "
            "no file of weights."
        )
    if is_average:
        require_average(checkpoint)
    encoder = AVERAGE if is_average else ENCODER
    return _of_folder(checkpoint, settings_of(checkpoint), settings, encoder)


def _of_file(file: Path, settings: Settings) -> FirstWeights:
    source = f"model.start_from={settings.model.start_from}"
    fitted = fit(read_tensors(file), build_encoder(settings), source, describe(settings))
    return FirstWeights({"encoder": fitted.tensors}, sha256(file), fitted.notes)


def _of_folder(
    folder: Path, theirs: Settings, settings: Settings, encoder: str = ENCODER
) -> FirstWeights:
    """The weights in a folder whose files' sums hold.

    Args:
      theirs: the settings of the run that trained them.
      encoder: name of the file with the encoder's.
    """
    mine = settings.model
    if (theirs.model.encoder, theirs.model.stem) != (mine.encoder, mine.stem):
        raise CheckpointError(
            f"Checkpoint {folder} holds a {theirs.model.encoder} ({theirs.model.stem} stem), and "
            f"model.encoder={mine.encoder} ({mine.stem} stem) differs; give the same."
        )
    first = _of_file(folder / encoder, settings)
    others = {
        name: read_tensors(folder / file_of(name))
        for name, keys in _OTHER_PARTS.items()
        if (folder / file_of(name)).is_file()
        and all(getattr(mine, key) == getattr(theirs.model, key) for key in keys)
    }
    return replace(first, parts={**first.parts, **others})


def _note_on_statistics(settings: Settings) -> list[str]:
    """A sentence if the images will be normalised otherwise than those that trained the weights."""
    name = settings.model.start_from or ""
    if not name.startswith("timm:") or settings.data.channels != 3:
        return []
    theirs = statistics_of(name)
    if theirs == shares(settings.data):
        return []
    mean, std = (" ".join(map(str, each)) for each in theirs)
    return [f"it was trained with other statistics: --data.mean {mean} --data.std {std}"]


def _check_sum(found: str, settings: Settings) -> None:
    wanted = settings.model.start_sha256
    if wanted not in (None, found):
        raise CheckpointError(
            f"model.start_from={settings.model.start_from} has the SHA-256 {found}, and "
            f"model.start_sha256={wanted} is wanted: bring those weights back, or leave "
            "the sum out."
        )


def _noting(found: str, settings: Settings) -> Settings:
    return replace(settings, model=replace(settings.model, start_sha256=found))
