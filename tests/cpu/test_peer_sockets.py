import tempfile
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from bt_ray.cpu.peer_sockets import MOST_BYTES, connect_peers
from bt_ray.distributed import collectives
from bt_ray.distributed.collectives import all_reduce_sum, gather_rows
from tests.workers import run_workers

SHAPES = [(), (5,), (3, 2), (MOST_BYTES // 8,)]


def row_of(rank: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return (10 * torch.randn(shape, generator=torch.Generator().manual_seed(rank))).to(dtype)


def _exchange(rank: int, world_size: int) -> list[Tensor]:
    peers = connect_peers()
    assert peers is not None
    return [
        peers.exchange(row_of(rank, shape, dtype))
        for shape in SHAPES
        for dtype in (torch.float64, torch.bfloat16, torch.int64)
    ]


@pytest.mark.parametrize("world_size", [2, 4])
def test_every_worker_has_every_workers_row(world_size: int) -> None:
    of_workers = run_workers(world_size, _exchange)
    expected = [
        torch.stack([row_of(rank, shape, dtype) for rank in range(world_size)])
        for shape in SHAPES
        for dtype in (torch.float64, torch.bfloat16, torch.int64)
    ]
    for tables in of_workers:
        torch.testing.assert_close(tables, expected, rtol=0, atol=0)


def _many(rank: int, world_size: int) -> int:
    peers = connect_peers()
    assert peers is not None
    wrong = 0
    for turn in range(500):
        row = torch.full((MOST_BYTES // 8,), float(turn * world_size + rank), dtype=torch.float64)
        table = peers.exchange(row)
        wanted = turn * world_size + torch.arange(world_size, dtype=torch.float64)
        wrong += int((table != wanted[:, None]).any())
    return wrong


def test_rows_as_large_as_may_be_neither_mix_nor_wait_for_each_other() -> None:
    assert run_workers(3, _many) == [0, 0, 0]


def _sums(rank: int, world_size: int, by_gloo: bool) -> tuple[Tensor, Tensor]:
    if by_gloo:
        collectives.MOST_BYTES = -1
    x = row_of(rank, (7, 3), torch.float32)
    return all_reduce_sum(x), gather_rows(x[: 2 + rank])


def test_sums_and_rows_are_those_of_gloo() -> None:
    direct, through_gloo = run_workers(2, _sums, False), run_workers(2, _sums, True)
    torch.testing.assert_close(direct, through_gloo, rtol=0, atol=0)
    torch.testing.assert_close(direct[0], direct[1], rtol=0, atol=0)


def _calls_of_gloo(rank: int, world_size: int) -> list[int]:
    all_reduce_sum(torch.ones(3))  # connects
    calls = []
    with patch.object(dist, "all_reduce", side_effect=dist.all_reduce) as reduce:
        for size in (3, MOST_BYTES):
            all_reduce_sum(torch.ones(size))
            calls.append(reduce.call_count)
    return calls


def test_small_sums_do_not_go_through_gloo_and_large_ones_do() -> None:
    assert run_workers(2, _calls_of_gloo) == [[0, 1]] * 2


def _elsewhere(rank: int, world_size: int) -> bool:
    with patch("socket.gethostname", return_value=f"machine-{rank}"):
        return connect_peers() is None


def test_workers_on_several_machines_have_no_sockets() -> None:
    assert run_workers(2, _elsewhere) == [True, True]


def _deep_down(rank: int, world_size: int) -> tuple[bool, Tensor]:
    with tempfile.TemporaryDirectory() as folder:
        if rank == 1:
            deep = Path(folder, *["deep" * 10] * 4)
            deep.mkdir(parents=True)
            tempfile.tempdir = str(deep)
        return connect_peers() is None, all_reduce_sum(torch.ones(2))


def test_without_a_place_for_a_socket_gloo_is_used() -> None:
    for has_none, total in run_workers(2, _deep_down):
        assert has_none
        assert total.tolist() == [2, 2]


def _left_alone(rank: int, world_size: int) -> bool:
    peers = connect_peers()
    assert peers is not None
    if rank == 1:
        for peer in peers._peers.values():
            peer.close()
        return True
    try:
        peers.exchange(torch.ones(3))
    except ConnectionError:
        return True
    return False


def test_a_worker_that_is_gone_is_an_error() -> None:
    assert run_workers(2, _left_alone)[0]
