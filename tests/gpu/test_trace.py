"""What the counts of a fake GPU mean, operator by operator."""

from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException

from tests.gpu.trace import (
    GPU,
    Crossing,
    Trace,
    count_list_launches,
    fake_gpu,
    needs_fake_gpu,
)

BYTES = 400
"""Of x, a hundred float32."""


@needs_fake_gpu
@pytest.mark.parametrize(
    ("operate", "launches", "num_bytes"),
    [
        (lambda x: x + x, 1, 2 * BYTES),
        (lambda x: x + x.clone(), 2, 5 * BYTES),
        (lambda x: x.add_(1), 1, 2 * BYTES),
        (lambda x: torch.add(x, 1, out=torch.empty_like(x)), 1, 2 * BYTES),
        (lambda x: x.copy_(x.view(4, 25).t().reshape(100)), 2, 4 * BYTES),
        (lambda x: x.zero_(), 1, BYTES),
        (lambda x: torch.zeros_like(x), 1, BYTES),
        (lambda x: x.half(), 1, BYTES * 3 // 2),
        (lambda x: x[:1].expand(100) + x, 1, 2 * BYTES + 4),
        (lambda x: x.view(10, 10).t()[2:].unbind(), 0, 0),
        (lambda x: torch.empty_like(x), 0, 0),
        (lambda x: torch._foreach_add_([x, x.view(10, 10)], 1), 1, 4 * BYTES),
        (lambda x: torch._foreach_add([x, x.view(10, 10)], 1), 1, 4 * BYTES),
        (lambda x: x * torch.tensor(2.0), 1, 2 * BYTES),  # an argument of the kernel
    ],
)
def test_a_tensor_counts_once_for_each_kernel_and_way(
    operate: Callable[[Tensor], object], launches: int, num_bytes: int
) -> None:
    with fake_gpu():
        x = torch.empty(100, device=GPU)
        with Trace() as trace:
            operate(x)
    assert trace.num_launches == launches
    assert trace.bytes == num_bytes
    assert not trace.crossings


@needs_fake_gpu
def test_crossings_say_which_way_and_whether_the_host_waits() -> None:
    with fake_gpu():
        x, on_host = torch.empty(100, device=GPU), torch.empty(100, device="cpu")
        with Trace() as trace:
            on_host.to(GPU, non_blocking=True)
            x.copy_(on_host)
            on_host.copy_(x, non_blocking=True)
            torch.tensor(1.0, device=GPU)
            x[torch.tensor([1, 2])]
            with pytest.raises(DataDependentOutputException):
                x[0].item()
            with pytest.raises(Exception, match="nonzero"):
                x[x > 0]
    assert trace.crossings == [
        Crossing("_to_copy", "cpu to cuda", waits=False),
        Crossing("copy_", "cpu to cuda", waits=True),
        Crossing("copy_", "cuda to cpu", waits=False),
        Crossing("_to_copy", "cpu to cuda", waits=True),
        Crossing("index", "cpu to cuda", waits=True),
        Crossing("_local_scalar_dense", "cuda to cpu", waits=True),
        Crossing("index", "cuda to cpu", waits=True),
    ]
    assert trace.launches == {"index": 1, "gt": 1}


@needs_fake_gpu
def test_collectives_and_the_largest_new_tensor() -> None:
    with fake_gpu(world_size=4):
        x = torch.empty(100, device=GPU)
        with Trace() as trace:
            dist.all_reduce(x)
            x.view(10, 10).sum(0)
            assert trace.largest_new == 10
            torch.empty(50, device=GPU)
            torch.empty(500, device="cpu")
    assert trace.collectives == {"allreduce_": 1}
    assert trace.num_launches == 2
    assert trace.largest_new == 50
    trace.reset()
    assert trace.num_launches == trace.largest_new == trace.bytes == 0


@pytest.mark.parametrize(
    ("sizes", "num_lists", "launches"),
    [
        ([64] * 110, 1, 1),
        ([64] * 111, 1, 2),
        ([64] * 108, 3, 3),
        ([65536 * 320], 1, 1),
        ([65536 * 320 + 1], 1, 2),
        ([65536 * 319, 65537], 2, 2),
        ([65536 * 960, 1], 1, 4),
        ([], 1, 0),
    ],
)
def test_launches_of_operators_on_lists(sizes: list[int], num_lists: int, launches: int) -> None:
    assert count_list_launches(sizes, num_lists) == launches
