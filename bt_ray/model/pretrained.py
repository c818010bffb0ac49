"""Loads a pretrained encoder, from a checkpoint's folder or from a file of weights.

A folder holds the settings that say what the encoder is. A file of weights does not, so the caller
gives the architecture. Its tensors must have the names of torchvision's ResNets, as in the authors'
released weights; prefixes that training code leaves in front of them are removed.
"""

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from bt_ray.config import SETTINGS_FILE, Settings, read_settings
from bt_ray.errors import CheckpointError
from bt_ray.model.encoder import build_encoder
from bt_ray.model.weights import ENCODER, load_weights

WEIGHT_SUFFIXES = (".pth", ".pt", ".safetensors")
_PREFIXES = ("module.", "backbone.", "encoder.")
_NESTED = ("model", "state_dict")
_MOST_NAMED = 3


@dataclass(frozen=True)
class Pretrained:
    """An encoder in eval mode, from images (n, 3, px, px) to representations (n, F).

    `settings` are those of the run that trained it; for a file of weights, those that the caller
    opened it with.
    """

    encoder: nn.Module
    settings: Settings

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
    """The encoder whose state dict is in `file`; a classifier's last layer in it is left out.

    Raises: CheckpointError if it cannot be read, or is of another architecture.
    """
    model = settings.model
    encoder = build_encoder(settings)
    found = {
        name: tensor for name, tensor in _bare_names(_read(file)).items()
        if not name.startswith("fc.")
    }  # fmt: skip
    expected = encoder.state_dict()
    counters = {name for name in expected if name.endswith("num_batches_tracked")}
    missing = sorted(expected.keys() - found.keys() - counters)
    foreign = sorted(found.keys() - expected.keys())
    misshapen = sorted(
        name for name in found.keys() & expected.keys()
        if found[name].shape != expected[name].shape
    )  # fmt: skip
    faults = [
        f"{what} {', '.join(names[:_MOST_NAMED])}{' …' if len(names) > _MOST_NAMED else ''}"
        for what, names in (("lacks", missing), ("also has", foreign), ("misshapes", misshapen))
        if names
    ]
    if faults:
        raise CheckpointError(
            f"{file} does not hold a {model.encoder} ({model.stem} stem): it {'; it '.join(faults)}"
            ". Name the architecture of these weights."
        )
    encoder.load_state_dict({name: found.get(name, expected[name]) for name in expected})
    return Pretrained(encoder.eval(), settings)


def _read(file: Path) -> Mapping[str, Tensor]:
    """The tensors in a file; from a pickle nothing else is loaded, nothing run."""
    try:
        tree = load_file(file) if file.suffix == ".safetensors" else torch.load(
            file, map_location="cpu", weights_only=True
        )  # fmt: skip
    except (
        OSError, RuntimeError, SafetensorError, pickle.UnpicklingError, EOFError, ValueError
    ) as error:  # fmt: skip
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{file} cannot be read as a state dict ({reason}).") from error
    for key in _NESTED:
        if isinstance(tree, Mapping) and isinstance(tree.get(key), Mapping):
            tree = tree[key]
    if not isinstance(tree, Mapping) or not all(isinstance(v, Tensor) for v in tree.values()):
        raise CheckpointError(
            f"{file} holds no state dict: a mapping from names to tensors was expected."
        )
    return tree


def _bare_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The encoder's tensors, their prefixes removed; tensors of other modules are left out."""
    names = dict(tensors)
    while inner := next((p for p in _PREFIXES if any(n.startswith(p) for n in names)), None):
        names = {n.removeprefix(inner): t for n, t in names.items() if n.startswith(inner)}
    return names


def untrained(pretrained: Pretrained) -> Pretrained:
    """The same architecture with new weights, drawn with the seed of the run's settings."""
    torch.manual_seed(pretrained.settings.training.seed)
    return Pretrained(build_encoder(pretrained.settings).eval(), pretrained.settings)
