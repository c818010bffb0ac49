"""What a GPU would be asked to do: counted on tensors that have a device and no memory."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bt_ray.model import inputs
from bt_ray.model.batch_norm import cuda
from tests.gpu import kernels

GPU = torch.device("cuda:0")
CAN_TRACE = torch.__version__ >= (2, 10)
"""Before, fake tensors on a GPU asked its driver, and some collectives had no fake version."""
_NO_KERNEL = {
    "_unsafe_view", "alias", "as_strided", "detach", "diagonal", "empty", "empty_like",
    "empty_strided", "expand", "flatten", "lift_fresh", "narrow", "new_empty", "permute",
    "select", "slice", "split", "split_with_sizes", "squeeze", "t", "transpose", "unbind",
    "unsqueeze", "view",
}  # fmt: skip
_KERNELS = {
    "batch_norm_stats": 2,  # its semaphores are zeroed first
    "batch_norm_backward_reduce": 2,  # likewise
}
"""Operators whose CUDA implementation launches more than one kernel (Normalization.cuh)."""


class Trace(TorchDispatchMode):
    """Counts what the operators inside it would launch, move and wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.launches: Counter[str] = Counter()
        self.collectives: Counter[str] = Counter()
        self.crossings: Counter[str] = Counter()
        self.bytes = 0

    @property
    def num_launches(self) -> int:
        """Kernels and collectives."""
        return sum(self.launches.values()) + sum(self.collectives.values())

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        namespace, name, *_ = str(func).split(".")
        given, made = _tensors((args, kwargs)), _tensors(result)
        devices = {x.device.type for x in given + made}
        if name in ("_to_copy", "copy_") and len(devices) > 1:
            self.crossings[f"{name} {tuple(given[-1].shape)}"] += 1
        if name == "_local_scalar_dense":
            self.crossings[name] += 1
        if namespace == "prim" or "cuda" not in devices or name in _NO_KERNEL:
            return result
        if namespace == "c10d":
            self.collectives[name] += 1
        else:
            self.launches[name] += _KERNELS.get(name, 1)
            self.bytes += sum(
                x.numel() * x.element_size() for x in {id(x): x for x in given + made}.values()
            )
        return result


def _tensors(tree: Any) -> list[Tensor]:
    return [x for x in tree_leaves(tree) if isinstance(x, Tensor)]


class Saved:
    """In place of an autograd function's context: the engine itself wants a real device."""

    saved_tensors: tuple[Tensor, ...] = ()

    def save_for_backward(self, *tensors: Tensor) -> None:
        self.saved_tensors = tensors

    def mark_non_differentiable(self, *tensors: Tensor) -> None:
        pass


@contextmanager
def fake_gpus(world_size: int = 32) -> Iterator[None]:
    """Worker 0 of a world in which nothing is sent, with a GPU that computes nothing.

    Asking for a number on the device raises DataDependentOutputException: that would be a wait.
    """
    kernels.register()
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
        dist.destroy_process_group()
