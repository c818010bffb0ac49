"""Copies in host memory of what is on a device, made while the device goes on."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Named = Mapping[str, Mapping[str, Tensor]]
"""Tensors by the file that they belong to, and by their name in it."""


class HostCopies:
    """Buffers that tensors are copied into, the same each time.

    From a GPU, to pinned memory, the copies are queued behind the work that the device has already,
    and before any that it gets later: they hold what the tensors hold when `take` is called, and
    the caller waits for nothing.

    Args:
      allocate: makes the buffer of a tensor.
      mark: marks the device's queue, and returns what waits until the device has come there.
    """

    def __init__(
        self,
        allocate: Callable[[Tensor], Tensor] | None = None,
        mark: Callable[[torch.device], Callable[[], None]] | None = None,
    ) -> None:
        self._allocate = allocate or _host_buffer
        self._mark = mark or _mark
        self._buffers: dict[tuple[str, str], Tensor] = {}
        self._waits: list[Callable[[], None]] = []

    def take(self, tensors: Named) -> dict[str, dict[str, Tensor]]:
        """Copies of the tensors, which the next call overwrites; whole once `wait` has returned."""
        copies: dict[str, dict[str, Tensor]] = {}
        devices = set()
        for file, parts in tensors.items():
            copies[file] = {}
            for name, tensor in parts.items():
                buffer = self._buffer(file, name, tensor)
                copies[file][name] = buffer.copy_(tensor.detach(), non_blocking=True)
                devices.add(tensor.device)
        self._waits = [self._mark(device) for device in devices]
        return copies

    def wait(self) -> None:
        """Returns when the copies that were taken last are whole."""
        for wait in self._waits:
            wait()

    def _buffer(self, file: str, name: str, tensor: Tensor) -> Tensor:
        buffer = self._buffers.get((file, name))
        if buffer is None or (buffer.shape, buffer.dtype) != (tensor.shape, tensor.dtype):
            buffer = self._buffers[file, name] = self._allocate(tensor)
        return buffer


def _host_buffer(tensor: Tensor) -> Tensor:
    """Host memory for a tensor, laid out alike, pinned if it comes from a GPU."""
    return torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)


def _mark(device: torch.device) -> Callable[[], None]:
    if device.type != "cuda":
        return lambda: None
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(device))
    return event.synchronize
