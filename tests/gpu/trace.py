"""What a GPU would be asked to do: counted on tensors that have a device and no memory."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import ceil, prod
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bt_ray.model import inputs
from bt_ray.model.batch_norm import cuda
from tests.gpu import kernels

GPU = torch.device("cuda:0")
CAN_TRACE = torch.__version__ >= (2, 10)
needs_fake_gpu = pytest.mark.skipif(
    not CAN_TRACE,
    reason="before torch 2.10 fake tensors ask a GPU's driver, and some collectives have no fake",
)
_NO_KERNEL = {
    "_unsafe_view", "as_strided_", "empty", "empty_like", "empty_strided", "new_empty",
    "new_empty_strided", "record_stream",
}  # fmt: skip
"""Operators that launch nothing; besides them, those whose result is a view by their schema."""
_KERNELS = {
    "batch_norm_stats": 2,  # its semaphores are zeroed first
    "batch_norm_backward_reduce": 2,  # likewise
}
"""Operators whose CUDA implementation launches more than one kernel (Normalization.cuh)."""
_OF_LISTS = ("_foreach_", "_fused_", "_amp_foreach_")
"""How the names of operators begin whose launches depend on how many tensors they take."""
_OVERWRITES = {"copy_", "fill_", "zero_", "_foreach_copy_", "_foreach_zero_"}
"""Operators that do not read what they write; besides them, whatever writes to `out=`."""
_READS_NOTHING = {
    "full_like", "new_full", "new_ones", "new_zeros", "ones_like", "rand_like", "randn_like",
    "zeros_like",
}  # fmt: skip
_NO_FAKE = {"_fused_sgd_"}
"""Operators that fake tensors cannot run; in place, so that nothing comes back."""


class Crossing(NamedTuple):
    """Numbers that go from the host to the GPU or back."""

    operator: str
    way: str
    """Such as "cpu to cuda"."""
    waits: bool
    """Whether the host goes on only when they have arrived."""


class Trace(TorchDispatchMode):
    """Counts what the operators inside it would launch, move and wait for.

    Bytes are those of tensors on the GPU, once for each kernel that reads one and once for each
    that writes one: x.add_(y) reads two and writes one. Which way a tensor goes is said by the
    operator's schema. Numbers that an expanded tensor repeats count once. Where an index picks some
    rows of a tensor, all count. Neither views nor collectives move bytes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reset()

    def reset(self) -> None:
        """Counts from nothing again."""
        self.launches: Counter[str] = Counter()
        self.collectives: Counter[str] = Counter()
        self.crossings: list[Crossing] = []
        self.bytes = 0
        self.largest_new = 0
        """Numbers of the largest tensor that was allocated on the GPU."""

    @property
    def num_launches(self) -> int:
        """Kernels and collectives."""
        return self.launches.total() + self.collectives.total()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        try:
            result = None if name in _NO_FAKE else func(*args, **kwargs)
        except (DataDependentOutputException, DynamicOutputShapeException):
            if any(x.is_cuda for x in _tensors((args, kwargs))):
                self.crossings.append(Crossing(name, "cuda to cpu", waits=True))
            raise
        names = [argument.name for argument in func._schema.arguments]
        given = dict(zip(names, args, strict=False)) | kwargs
        if any(x.is_cuda for x in _tensors((given, result))):
            self._count(func, name, given, result)
        return result

    def _count(self, func: Any, name: str, given: Mapping[str, Any], result: Any) -> None:
        if func.namespace == "prim" or func.is_view:
            return
        read, written = _ways(func, name, given, result)
        new = [x for x in written if not any(x is y for y in _tensors(given))]
        if name != "_unsafe_view":
            self.largest_new = max(self.largest_new, *(x.numel() for x in new if x.is_cuda), 0)
        if func.namespace == "c10d":
            self.collectives[name] += 1
            return
        if name in _NO_KERNEL:
            return
        crossings = _crossings(name, given, read, written)
        self.crossings += crossings
        if crossings and _is_copy(name):
            return
        self.launches[name] += _num_kernels(name, given, result)
        self.bytes += sum(_num_bytes(x) for x in read + written if x.is_cuda)


def _tensors(tree: Any) -> list[Tensor]:
    """Each once."""
    return list({id(x): x for x in tree_leaves(tree) if isinstance(x, Tensor)}.values())


def _ways(
    func: Any, name: str, given: Mapping[str, Any], result: Any
) -> tuple[list[Tensor], list[Tensor]]:
    """The tensors that are read, and those that are written."""
    reads, writes = [], []
    for argument in func._schema.arguments:
        value = given.get(argument.name)
        is_written = argument.alias_info is not None and argument.alias_info.is_write
        if is_written:
            writes.append(value)
        if not (is_written and (argument.is_out or name in _OVERWRITES)):
            reads.append(value)
    # What is written in place comes back, too.
    return [] if name in _READS_NOTHING else _tensors(reads), _tensors((writes, result))


def _is_copy(name: str) -> bool:
    return name in ("_to_copy", "copy_", "_foreach_copy_")


def _crossings(
    name: str, given: Mapping[str, Any], read: list[Tensor], written: list[Tensor]
) -> list[Crossing]:
    """A number without dimensions reaches a kernel as its argument; only a copy makes it cross."""
    [there, *_] = [x.device.type for x in written] or ["cuda"]
    return [
        Crossing(name, f"{x.device.type} to {there}", not given.get("non_blocking"))
        for x in read
        if x.device.type != there and (x.dim() > 0 or _is_copy(name))
    ]


def _num_bytes(x: Tensor) -> int:
    lengths = [length for length, stride in zip(x.shape, x.stride(), strict=True) if stride]
    return x.element_size() * prod(lengths) if x.numel() else 0


def _num_kernels(name: str, given: Mapping[str, Any], result: Any) -> int:
    if not name.startswith(_OF_LISTS):
        return _KERNELS.get(name, 1)
    lists = [x for x in (*given.values(), result) if isinstance(x, list | tuple) and _tensors(x)]
    return count_list_launches([x.numel() for x in lists[0]], len(lists))


def count_list_launches(sizes: list[int], num_lists: int) -> int:
    """Launches of an operator on lists of tensors, whose first has these sizes.

    A launch takes so many tensors and 320 blocks of 65,536 numbers (MultiTensorApply.cuh of
    torch 2.7; a newer torch with CUDA 12 takes seven times as many).
    """
    most_tensors = (110, 64, 48, 36, 30)[num_lists - 1]
    launches = blocks = tensors = 0
    for size in sizes:
        blocks += ceil(size / 65536)
        tensors += 1
        if blocks >= 320:
            launches += blocks // 320
            blocks %= 320
            tensors = min(blocks, 1)  # the rest of this one
        if tensors == most_tensors:
            launches += 1
            blocks = tensors = 0
    return launches + (blocks > 0)


class Saved:
    """In place of an autograd function's context: the engine itself wants a real device."""

    saved_tensors: tuple[Tensor, ...] = ()

    def save_for_backward(self, *tensors: Tensor) -> None:
        self.saved_tensors = tensors

    def mark_non_differentiable(self, *tensors: Tensor) -> None:
        pass


@contextmanager
def fake_gpu(world_size: int = 1) -> Iterator[None]:
    """Inside, tensors on `GPU` have shapes and no numbers; a `Trace` counts what they are used for.

    In a world of several workers this is worker 0, and nothing is sent. Whoever asks for a number
    on the device gets an exception, for that would be a wait.
    """
    kernels.register()
    if world_size > 1:
        dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=world_size)
    forget = (cuda.constant.cache_clear, inputs.statistics.cache_clear)
    for clear in forget:
        clear()
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            yield
    finally:
        for clear in forget:
            clear()
        if world_size > 1:
            dist.destroy_process_group()
