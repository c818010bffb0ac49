"""The tensors in a file of weights, as training code anywhere writes one."""

import argparse
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from bt_ray.errors import CheckpointError

WEIGHT_SUFFIXES = (".pth", ".pt", ".bin", ".safetensors", ".ckpt", ".tar")
"""Endings of files of weights; `.pth.tar` is what MoCo and SimSiam write."""
_NESTED = (
    "state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model", "teacher", "student",
)  # fmt: skip
"""Where training code keeps the network in its checkpoint, what is preferred first."""


def is_weight_file(place: Path) -> bool:
    """Whether a place is a file whose name ends as those of weights do."""
    return place.suffix in WEIGHT_SUFFIXES and place.is_file()


def read_tensors(file: Path) -> dict[str, Tensor]:
    """A network's tensors by name; from a pickle nothing else is loaded, and nothing is run.

    Raises: CheckpointError if the file cannot be read, or holds something else.
    """
    tree = _read(file)
    while isinstance(tree, Mapping):
        key = next((key for key in _NESTED if isinstance(tree.get(key), Mapping)), None)
        if key is None:
            break
        tree = tree[key]
    if (
        not isinstance(tree, Mapping)
        or not tree
        or not all(
            isinstance(name, str) and isinstance(value, Tensor) for name, value in tree.items()
        )
    ):
        raise CheckpointError(
            f"{file} holds no state dict: a mapping from names to tensors was expected."
        )
    return dict(tree)


def _read(file: Path) -> Any:
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        # Checkpoints keep their command line in a Namespace, which is data.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(file, map_location="cpu", weights_only=True)
    except (
        OSError, RuntimeError, SafetensorError, pickle.UnpicklingError, EOFError, ValueError,
        KeyError,
    ) as error:  # fmt: skip
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{file} cannot be read as a state dict ({reason}).") from error
