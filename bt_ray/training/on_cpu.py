"""What a run says when it computes on this machine's CPU."""

import logging
import platform
from functools import cache

import torch

from bt_ray.config import Settings

_log = logging.getLogger(__name__)

_WITHOUT_BF16 = ("DEFAULT", "AVX2")
"""What torch calls x86 CPUs whose bf16 convolutions it computes without oneDNN."""


def warn_on_cpu(settings: Settings) -> None:
    """Says once what a person may not expect: an Apple GPU is not used, bf16 is slow."""
    if settings.scaling.accelerator == "auto" and torch.backends.mps.is_available():
        _say(
            "An Apple GPU (MPS) is here and is not used: the loss and the probes add up in "
            "float64, which MPS lacks. The CPU computes."
        )
    if (sentence := slow_precision(settings)) is not None:
        _say(sentence)


def slow_precision(settings: Settings) -> str | None:
    """A sentence if the run's precision is bf16, and this CPU has no instructions for it."""
    is_x86 = platform.machine() in ("x86_64", "AMD64")
    capability = torch.backends.cpu.get_cpu_capability()
    if settings.training.precision != "bf16" or not is_x86 or capability not in _WITHOUT_BF16:
        return None
    return (
        "training.precision=bf16 on a CPU without instructions for it: a step takes many times as "
        "long as in fp32. Give --training.precision fp32."
    )


@cache
def _say(sentence: str) -> None:
    _log.warning(sentence)
