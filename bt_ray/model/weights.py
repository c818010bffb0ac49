"""A module's weights as a safetensors file."""

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from bt_ray.errors import CheckpointError

ENCODER = "encoder.safetensors"
"""Name of the encoder's file in every checkpoint."""


def file_of(part: str) -> str:
    """Name of the file with the weights of a part of the twins, such as `encoder`."""
    return f"{part}.safetensors"


def save_weights(module: nn.Module, file: Path) -> None:
    """Writes a module's parameters and buffers to a safetensors file; shared ones once a name."""
    tensors = module.state_dict().items()
    save_file(
        {name: value.clone(memory_format=torch.contiguous_format) for name, value in tensors}, file
    )


def load_weights(module: nn.Module, file: Path) -> None:
    """Loads a module's parameters and buffers from a safetensors file.

    Raises: CheckpointError if the file is damaged, or its names or shapes do not fit the module.
    """
    try:
        module.load_state_dict(load_file(file))
    except SafetensorError as error:
        raise CheckpointError(f"{file} cannot be read as safetensors ({error}).") from error
    except RuntimeError as error:
        raise CheckpointError(f"{file} does not fit this architecture: {error}") from error


def fingerprint(module: nn.Module) -> str:
    """SHA-256 over names and bytes of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
