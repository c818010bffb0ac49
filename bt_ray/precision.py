"""The arithmetic, algorithms and memory layout of encoder and projector."""

import os
import platform
from typing import Literal

import torch

from bt_ray.config import TrainingSettings

Precision = Literal["fp32", "bf16", "fp16"]

BF16_SINCE, FP16_SINCE = (8, 0), (7, 0)
"""Compute capability of the first GPUs with bf16 (Ampere), and with tensor cores for fp16."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_WITHOUT_BF16 = ("AVX512_CORE", "AVX512_CORE_VNNI")
"""What oneDNN may be told to stay below, of what `_is_mkldnn_bf16_supported` does not tell apart
from a CPU with bf16 instructions."""


def precision_on(settings: TrainingSettings, device: torch.device) -> Precision:
    """The settings' precision; what `auto` means on this device."""
    if settings.precision != "auto":
        return settings.precision
    if device.type == "cuda":
        return best_on_gpu(torch.cuda.get_device_capability(device))
    return best_on_cpu()


def best_on_gpu(capability: tuple[int, int]) -> Precision:
    """The fastest arithmetic that a GPU has: bf16, fp16 on V100 and T4, fp32 on older ones.

    Args:
      capability: compute capability, such as (7, 0) of a V100.
    """
    if capability >= BF16_SINCE:
        return "bf16"
    return "fp16" if capability >= FP16_SINCE else "fp32"


def best_on_cpu() -> Precision:
    """The fastest arithmetic that this machine's CPU has: bf16 if it has instructions for it."""
    return "bf16" if cpu_has_bf16() else "fp32"


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bf16 by instructions of its own, and torch uses them."""
    if not torch.backends.mkldnn.is_available() or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    if platform.machine() not in ("x86_64", "AMD64"):
        return True
    told = os.environ.get("ONEDNN_MAX_CPU_ISA", os.environ.get("DNNL_MAX_CPU_ISA", ""))
    return (
        (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
        and torch.backends.cpu.get_cpu_capability().startswith("AVX512")
        and told.upper() not in _WITHOUT_BF16
    )


def autocast(settings: TrainingSettings, device: torch.device) -> torch.autocast:
    """A context in which matrix products and convolutions use the chosen precision."""
    precision = precision_on(settings, device)
    return torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32")


def gradient_dtype(settings: TrainingSettings) -> torch.dtype | None:
    """In which type gradients travel between workers; None: in their own."""
    name = settings.gradient_dtype
    return None if name == "fp32" else DTYPES[name]


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
