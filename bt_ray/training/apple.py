"""Apple's GPUs: they are not computed on, and a run says so."""

import logging
from functools import cache

import torch

_log = logging.getLogger(__name__)


@cache
def decline_apple_gpu() -> None:
    """Says once, where torch could use an Apple GPU (MPS), that the CPU computes instead."""
    if torch.backends.mps.is_available():
        _log.warning(
            "An Apple GPU (MPS) is here and is not used: the loss and the probes add up in "
            "float64, which MPS lacks. The CPU computes."
        )
