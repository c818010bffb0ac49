"""A pretrained encoder, from a checkpoint's folder or from a file of weights.

A folder holds the settings that say what the encoder is. A file of weights does not, so the caller
gives the architecture; `model.fit` says how its tensors become those of that encoder.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from bt_ray.config import SETTINGS_FILE, Settings, read_settings
from bt_ray.model.encoder import build_encoder
from bt_ray.model.fit import fit
from bt_ray.model.weights import ENCODER, load_weights
from bt_ray.model.weights_file import read_tensors

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pretrained:
    """An encoder in eval mode, from images (n, c, px, px) to representations (n, F).

    `settings` are those of the run that trained it; for a file of weights, those that the caller
    opened it with. `start` is the folder where the run keeps the weights that it started from, if
    it started from any and is known.
    """

    encoder: nn.Module
    settings: Settings
    start: Path | None = None

    @property
    def num_features(self) -> int:
        """F, the length of a representation."""
        return int(self.encoder.num_features)  # type: ignore[arg-type]


def load_folder(folder: Path, weights: str = ENCODER) -> Pretrained:
    """The encoder in a folder with its weights and settings, such as a checkpoint.

    Args:
      weights: name of the file with the weights.
    Raises: CheckpointError if the weights are not those of the settings' encoder.
    """
    settings = read_settings(folder / SETTINGS_FILE)
    encoder = build_encoder(settings)
    load_weights(encoder, folder / weights)
    return Pretrained(encoder.eval(), settings)


def load_file_of_weights(file: Path, settings: Settings) -> Pretrained:
    """The encoder whose state dict is in `file`; a warning tells what was left out or adapted.

    Raises: CheckpointError if it cannot be read, or is of another architecture.
    """
    encoder = build_encoder(settings)
    fitted = fit(read_tensors(file), encoder, str(file), describe(settings))
    for note in fitted.notes:
        _log.warning("%s: %s.", file, note)
    encoder.load_state_dict(fitted.tensors)
    return Pretrained(encoder.eval(), settings)


def describe(settings: Settings) -> str:
    """What the settings' encoder is, for people."""
    model, data = settings.model, settings.data
    parts = [f"{model.stem} stem"]
    if model.patch_px is not None:
        parts.append(f"patches of {model.patch_px} pixels")
    if not data.is_rgb:
        parts.append(f"{data.channels} channels")
    return f"{model.encoder} ({', '.join(parts)})"
