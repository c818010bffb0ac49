"""Seconds of an operation on a GPU: what its arithmetic takes, or what its memory does."""

from bt_ray.config import Settings
from bt_ray.forecast.rates import COMPUTE_SHARE, MEMORY_SHARE, Gpu
from bt_ray.forecast.trace import Operation

_PASSES = {
    # Operands are counted once each. Forward reads its input again, for the statistics …
    ("batch_norm", False): 3 / 2,
    # … and backward reads both of its inputs twice.
    ("batch_norm", True): 5 / 3,
    # Two kernels, for the gradients of input and weight, read the output's gradient each.
    ("convolution", True): 4 / 3,
}
"""Reads and writes of an operation over those of its operands, for (kind, is it backward)."""
_REARRANGING = 2
"""Reads and writes of each operand of a convolution to bring it into channels-last and back."""


def seconds(operation: Operation, gpu: Gpu, settings: Settings) -> float:
    """How long the operation takes: the longer of arithmetic and memory.

    On tensor cores cuDNN computes channels-last; without `training.channels_last` every
    convolution also rearranges its operands.
    """
    is_half = settings.training.precision != "fp32"
    peak = gpu.half_flops if is_half else gpu.single_flops
    if operation.kind == "convolution" and not is_half:
        peak = gpu.convolution_flops
    passes = _PASSES.get((operation.kind, operation.is_backward), 1.0)
    moving_s = memory_seconds(passes * operation.operand_bytes, gpu)
    computing_s = operation.flops / (COMPUTE_SHARE * peak)
    taken = max(moving_s, computing_s)
    if operation.kind == "convolution" and is_half and not settings.training.channels_last:
        taken += _REARRANGING * moving_s
    return taken


def memory_seconds(num_bytes: float, gpu: Gpu) -> float:
    """How long the GPU's memory takes to read or write so many bytes."""
    return num_bytes / (MEMORY_SHARE * gpu.memory_bytes_per_s)
