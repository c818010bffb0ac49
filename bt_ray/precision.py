"""The arithmetic, algorithms and memory layout of encoder and projector."""

import os

import torch

from bt_ray.config import TrainingSettings

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(settings: TrainingSettings, device: torch.device) -> torch.autocast:
    """A context in which matrix products and convolutions use the chosen precision."""
    return torch.autocast(
        device.type, _DTYPES[settings.precision], enabled=settings.precision != "fp32"
    )


def gradient_dtype(settings: TrainingSettings) -> torch.dtype | None:
    """In which type gradients travel between workers; None: in their own."""
    name = settings.gradient_dtype
    return None if name == "fp32" else _DTYPES[name]


def memory_format(settings: TrainingSettings) -> torch.memory_format:
    """How images and convolution kernels lie in memory."""
    return torch.channels_last if settings.channels_last else torch.contiguous_format


def choose_algorithms(settings: TrainingSettings, device: torch.device) -> None:
    """Has a GPU time cuDNN's algorithms for each shape, or use what gives the same bits each time.

    Shapes do not change in training, so that the timing is done once. Called before a GPU computes.
    """
    if device.type != "cuda":
        return
    torch.backends.cudnn.benchmark = not settings.deterministic
    torch.use_deterministic_algorithms(settings.deterministic)
    if settings.deterministic:  # cuBLAS reads it when it is first used
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
