"""Tensors that claim to be on a GPU: what would be launched is counted, and a wait raises."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_FREE = ("view", "unbind", "select", "slice", "detach", "alias", "empty", "device", "_record")
_ONLY_WRITE = ("new_", "ones_like", "zeros_like", "fill_", "zero_")


class Traffic(TorchDispatchMode):
    """Counts kernels and the bytes that they read or write; each tensor once per kernel and way."""

    def __init__(self) -> None:
        super().__init__()
        self.reset()

    def reset(self) -> None:
        """Forgets what was counted."""
        self.launches = 0
        self.bytes = 0
        self.largest_new = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = function.overloadpacket.__name__
        # That one has no fake.
        out = None if name == "_fused_sgd_" else function(*args, **(kwargs or {}))
        if name.startswith(("_local_scalar", "item", "nonzero")):
            raise AssertionError(f"{name} waits for the device.")
        if name.startswith(("_to_copy", "copy_")):
            devices = {t.device.type for t in tree_leaves((args, out)) if isinstance(t, Tensor)}
            assert devices == {"cuda"}, f"{name} waits for the device."
        inputs = [t for t in tree_leaves(args) if isinstance(t, Tensor)]
        outputs = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        if name.startswith(_ONLY_WRITE):
            inputs = []
        if name == "copy_":
            inputs = inputs[1:]
        if name.startswith("_amp_foreach") or name.startswith("_fused"):
            outputs = inputs
        if name.startswith(_FREE):
            return out
        self.launches += 1
        self.bytes += sum(t.numel() * t.itemsize for t in inputs + outputs)
        new = [t for t in outputs if not any(t is i for i in tree_leaves((args, kwargs)))]
        self.largest_new = max([self.largest_new, *(t.numel() for t in new)])
        return out


@contextmanager
def fake_gpu() -> Iterator[Traffic]:
    """Inside, new tensors are fake ones on cuda:0, and what is done with them is counted."""
    with (
        FakeTensorMode(allow_non_fake_inputs=True),
        torch.device("cuda:0"),
        Traffic() as traffic,
    ):
        yield traffic
