"""What a run says when it computes on this machine's CPU."""

import logging
import time
from functools import cache
from typing import Literal

import torch

from bt_ray.config import Settings
from bt_ray.precision import DTYPES, cpu_has_bf16

_log = logging.getLogger(__name__)

_PAIRS, _CHANNELS, _SIDE_PX = 4, 64, 16
"""Of the convolution that is timed."""


def warn_on_cpu(settings: Settings) -> None:
    """Says once what a person may not expect: an Apple GPU is not used, or bf16 is emulated."""
    if settings.scaling.accelerator == "auto" and torch.backends.mps.is_available():
        _say(
            "An Apple GPU (MPS) is here and is not used: the loss and the probes add up in "
            "float64, which MPS lacks. The CPU computes."
        )
    if (sentence := slow_precision(settings)) is not None:
        _say(sentence)


def slow_precision(settings: Settings) -> str | None:
    """A sentence if this CPU emulates the run's precision, with how much longer that takes here."""
    precision = settings.training.precision
    if precision in ("auto", "fp32") or (precision == "bf16" and cpu_has_bf16()):
        return None
    factor = slowdown(precision)
    if precision == "fp16" and factor < 1:  # some CPUs have instructions for it
        return None
    return (
        f"training.precision={precision} is emulated by this CPU: a convolution takes "
        f"{factor:.3g} times as long as in fp32 (measured just now). Give --training.precision "
        "fp32, or leave it at auto; a run that has begun keeps its own."
    )


@cache
def slowdown(precision: Literal["bf16", "fp16"]) -> float:
    """How many times as long as in fp32 a convolution takes on this CPU, forward and backward.

    Timed with one thread, in about half a second where emulation is slow.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.enable_grad(), torch.random.fork_rng():
            return _time_convolution(DTYPES[precision]) / _time_convolution(torch.float32)
    finally:
        torch.set_num_threads(before)


def _time_convolution(dtype: torch.dtype) -> float:
    """Seconds of the faster of two goes, after a first one that also loads kernels."""
    layer = torch.nn.Conv2d(_CHANNELS, _CHANNELS, 3, padding=1)
    layer = layer.to(memory_format=torch.channels_last)
    images = torch.randn(_PAIRS, _CHANNELS, _SIDE_PX, _SIDE_PX)
    images = images.to(memory_format=torch.channels_last).requires_grad_()

    def go() -> float:
        began = time.perf_counter()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            layer(images).float().sum().backward()
        return time.perf_counter() - began

    go()
    return min(go(), go())


@cache
def _say(sentence: str) -> None:
    _log.warning(sentence)
