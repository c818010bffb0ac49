"""Copies beside the device's work: on a CPU for real, on a GPU by its contract."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from bt_ray.checkpoints.host_copies import HostCopies


def test_copies_are_of_the_moment_and_buffers_are_used_again() -> None:
    weight = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    tensors = {"a": {"weight": weight, "count": torch.tensor(3)}}
    before = weight.clone()
    copies = HostCopies()
    first = copies.take(tensors)
    copies.wait()
    weight.zero_()
    assert torch.equal(first["a"]["weight"], before)
    assert first["a"]["weight"].stride() == weight.stride(), "its bytes are copied as they lie"
    second = copies.take(tensors)
    copies.wait()
    for name, value in second["a"].items():
        assert value.data_ptr() == first["a"][name].data_ptr()
        assert torch.equal(value, tensors["a"][name])
        assert value.data_ptr() != tensors["a"][name].data_ptr()


def test_another_shape_gets_another_buffer() -> None:
    made = list[torch.Size]()

    def allocate(tensor: Tensor) -> Tensor:
        made.append(tensor.shape)
        return torch.empty_like(tensor)

    copies = HostCopies(allocate)
    for shape in ((2,), (2,), (3,)):
        copies.take({"a": {"x": torch.ones(shape)}})
    assert made == [(2,), (3,)]


class Crossings(TorchDispatchMode):
    """Notes every copy between devices, and whether the host waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = list[bool]()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten.copy_.default and args[0].device != args[1].device:
            self.waits.append(not (args[2:] or (False,))[0])
        assert func is not torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_a_gpu_is_copied_from_without_a_wait_and_marked_once_behind_all_copies() -> None:
    events = list[str]()

    def mark(device: torch.device) -> Callable[[], None]:
        events.append(f"mark {device} after {len(crossings.waits)}")
        return lambda: events.append("wait")

    with FakeTensorMode(), Crossings() as crossings:
        tensors = {n: torch.empty(5, 4, device="cuda:0") for n in ("x", "y", "z")}
        copies = HostCopies(lambda t: torch.empty(t.shape, dtype=t.dtype), mark)
        taken = copies.take({"a": tensors})
        assert {copy.device.type for copy in taken["a"].values()} == {"cpu"}
    assert crossings.waits == [False, False, False]
    assert events == ["mark cuda:0 after 3"]
    copies.wait()
    assert events[1:] == ["wait"]
