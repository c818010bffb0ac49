"""What holds on CUDA and not on CPUs, so that code for GPUs runs, and fails, on a CPU."""

from itertools import combinations
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.gpu import kernels


class CudaContract(TorchDispatchMode):
    """Operators on CPU tensors, held to what their CUDA kernels do.

    Outputs that share memory are refused: a kernel for CUDA may write all of them, where the one
    for CPUs leaves some alone. `native_batch_norm` of running statistics writes `save_mean` and
    `save_invstd`, and uses what it wrote; its backward asserts that they are given.
    Source: torch's Normalization.cu.
    """

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        aten = torch.ops.aten
        outputs = [kwargs[name.name] for name in func._schema.arguments if name.is_out]
        refuse_shared_outputs(func, [x for x in outputs if isinstance(x, Tensor)])
        if func is aten.native_batch_norm.out:
            return _native_batch_norm(*args, **kwargs)
        if func is aten.native_batch_norm_backward.default and (args[5] is None or args[6] is None):
            raise RuntimeError('save_mean->defined() INTERNAL ASSERT FAILED: "save_mean should …"')
        return func(*args, **kwargs)


def refuse_shared_outputs(func: Any, outputs: list[Tensor]) -> None:
    for one, other in combinations(outputs, 2):
        if one.untyped_storage()._cdata == other.untyped_storage()._cdata:
            raise RuntimeError(f"two outputs of {func} share memory")


def _native_batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    train: bool,
    momentum: float,
    eps: float,
    *,
    out: Tensor,
    save_mean: Tensor,
    save_invstd: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    assert not train
    save_mean.resize_(mean.shape).copy_(mean)
    save_invstd.resize_(variance.shape).copy_(torch.rsqrt(variance + eps))
    out.copy_(kernels.batch_norm_elemt(x.contiguous(), weight, bias, save_mean, save_invstd, eps))
    return out, save_mean, save_invstd
