"""The branch for CUDA, taken on a CPU."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

from bt_ray.model.batch_norm import cuda, module
from tests.gpu import kernels
from tests.gpu.contract import CudaContract

VARIABLE = "BT_RAY_TEST_CUDA_BRANCH"
"""Environment variable that has every test, and its workers, take the branch."""


def is_wanted() -> bool:
    return VARIABLE in os.environ


@contextmanager
def as_on_cuda() -> Iterator[None]:
    """Every choice by device falls as on a GPU, under CUDA's contract; tensors stay on the CPU."""
    kernels.register()
    with ExitStack() as stack:
        stack.enter_context(patch.object(module, "kernels_of", lambda device: cuda))
        stack.enter_context(CudaContract())
        yield
