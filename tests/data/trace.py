"""Counts what a CUDA device would be told to do, on a machine without one."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CUDA = torch.device("cuda:0")
_VIEWS = frozenset({
    "_unsafe_view", "alias", "as_strided", "detach", "device", "diagonal", "empty", "empty_like",
    "empty_strided", "expand", "flatten", "lift_fresh", "narrow", "new_empty", "permute", "reshape",
    "select", "slice", "split", "split_with_sizes", "squeeze", "t", "transpose", "unbind",
    "unflatten", "unsqueeze", "view",
})  # fmt: skip
"""Operations that launch nothing."""


class Trace(TorchDispatchMode):
    """What was launched on CUDA devices, and what was copied between them and the host."""

    def __init__(self) -> None:
        super().__init__()
        self.reset()

    def reset(self) -> None:
        """Counts from nothing again."""
        self.kernels: Counter[str] = Counter()
        self.copies: list[tuple[str, bool]] = []
        """From where to where, and whether the host goes on without waiting."""
        self.num_bytes = 0
        """Of all that the kernels read and write, each counted once a kernel."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = str(func).split(".")[1]
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        made = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        devices = {t.device.type for t in given + made}
        if name in _VIEWS or "cuda" not in devices:
            return out
        if name in ("_to_copy", "copy_") and len(devices) > 1:
            waits_not = bool((kwargs or {}).get("non_blocking"))
            self.copies.append((f"{given[-1].device.type} to {made[0].device.type}", waits_not))
            return out
        self.kernels[name] += 1
        self.num_bytes += sum(t.nbytes for t in given + made)
        return out


@contextmanager
def tracing() -> Iterator[Trace]:
    """Inside, tensors on `CUDA` have shapes and no numbers, and are counted."""
    with FakeTensorMode(allow_non_fake_inputs=True), Trace() as trace:
        yield trace
