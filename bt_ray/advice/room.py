"""How a network and a batch fit into the memory that is here."""

from collections.abc import Iterator
from dataclasses import replace

import psutil
import torch

from bt_ray.config import Settings, override
from bt_ray.config.model import SMALL_ENCODERS
from bt_ray.forecast.memory import measure_size
from bt_ray.precision import precision_on

_SHARE_USED = 0.7
"""Of the memory: the rest is for kernels, readers and checkpoints."""
_SMALLEST_BATCH = 64
"""A batch is not made smaller than this for the memory's sake."""


def memory_here(device: torch.device) -> float:
    """Bytes that a run may use on this device."""
    if device.type == "cuda":
        there = torch.cuda.get_device_properties(device).total_memory
    else:
        there = int(psutil.virtual_memory().available)
    return _SHARE_USED * there


def fit(settings: Settings, device: torch.device, memory_bytes: float) -> Settings | None:
    """The settings, or with less memory used: blocks computed again, a smaller batch.

    Returns: None if nothing of that suffices.
    """
    precision = precision_on(settings.training, device)
    for changed in _ways(settings):
        known = replace(changed, training=replace(changed.training, precision=precision))
        if measure_size(known).memory.total <= memory_bytes:
            return changed
    return None


def _ways(settings: Settings) -> Iterator[Settings]:
    """These settings, then others that need less and less."""
    batch = settings.data.global_batch
    while True:
        yield override(settings, {"data.global_batch": batch})
        if settings.model.encoder not in SMALL_ENCODERS:
            yield override(
                settings,
                {"data.global_batch": batch, "training.activation_checkpointing": True},
            )
        batch //= 2
        if batch < max(_SMALLEST_BATCH, settings.scaling.min_workers):
            return
