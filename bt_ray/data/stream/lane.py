"""The way from host memory to a GPU, beside what the GPU computes: all that is CUDA's own of it."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import Tensor


class Mark(Protocol):
    """A place on a lane: behind all that was launched there before the mark was made."""

    def wait(self) -> None:
        """Returns when the lane has come past it."""

    def join(self, tensors: Sequence[Tensor]) -> None:
        """Lets what is computed next wait for the lane, and hands it the lane's tensors."""


class Lane(Protocol):
    """Copies and kernels that no other computation of the device waits for, in order."""

    def pinned(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """New memory of the host from which a copy can be made without waiting for it."""

    def beside(self) -> AbstractContextManager[object]:
        """What is launched inside goes on the lane."""

    def copy(self, tensor: Tensor) -> Tensor:
        """A copy on the device, which may be under way; call it `beside`."""

    def mark(self) -> Mark:
        """A mark behind all that was launched so far."""


class CudaLane:
    """A stream of its own on a CUDA device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)

    def pinned(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """New page-locked memory, from any thread."""
        with torch.cuda.device(self._device):
            return torch.empty(tuple(shape), dtype=dtype, pin_memory=True)

    def beside(self) -> AbstractContextManager[object]:
        """What is launched inside goes on the stream."""
        return torch.cuda.stream(self._stream)

    def copy(self, tensor: Tensor) -> Tensor:
        """A copy on the device, which may be under way."""
        return tensor.to(self._device, non_blocking=True)

    def mark(self) -> Mark:
        """An event behind all that was launched so far."""
        return _CudaMark(self._device, self._stream)


class _CudaMark:
    """An event on a stream."""

    def __init__(self, device: torch.device, stream: torch.cuda.Stream) -> None:
        self._device = device
        self._event = torch.cuda.Event(blocking=True)  # who waits leaves the core to others
        self._event.record(stream)

    def wait(self) -> None:
        self._event.synchronize()

    def join(self, tensors: Sequence[Tensor]) -> None:
        current = torch.cuda.current_stream(self._device)
        current.wait_event(self._event)
        for tensor in tensors:
            tensor.record_stream(current)  # its memory is not used anew before `current` is done


def build_lane(device: torch.device) -> Lane | None:
    """A lane to the device; a CPU needs none."""
    return CudaLane(device) if device.type == "cuda" else None
