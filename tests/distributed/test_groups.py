"""What batch norm exchanges does not queue behind gradients."""

import os
import tempfile
from datetime import timedelta
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import nn

from bt_ray.distributed import groups
from bt_ray.distributed.gradients import data_parallel
from bt_ray.model.batch_norm import globalize_batch_norm
from tests.workers import run_workers


def _calls(rank: int, world_size: int, own: bool) -> list[tuple[str, bool, int]]:
    """A step's exchanges in order: what, whether on the default group, and how many numbers."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5)
    )
    made: list[tuple[str, bool, int]] = []

    def noting(name: str, call: Any) -> Any:
        def noted(*tensors: Any, group: Any = None, **rest: Any) -> Any:
            default = group is None or group is dist.group.WORLD
            made.append((name, default, int(tensors[-1].numel())))
            return call(*tensors, group=group, **rest)

        return noted

    torch.manual_seed(rank)
    step = data_parallel(globalize_batch_norm(model, views=2))
    with (
        patch.object(groups, "wants_own_communicator", lambda: own),
        patch.object(dist, "all_reduce", noting("all_reduce", dist.all_reduce)),
        patch.object(dist, "all_gather", noting("all_gather", dist.all_gather)),
    ):
        for _ in range(2):
            made.clear()
            step(torch.randn(4, 3, 9, 9)).square().sum().backward()
    return made


def test_batch_norm_has_a_group_of_its_own_where_groups_keep_an_order() -> None:
    """One exchange for both views, forward and backward; gradients alone are on the default."""
    for calls in run_workers(2, _calls, True):
        assert [call for call in calls if not call[1]] == [
            ("all_gather", False, 2 * 2 * 4 + 1),
            ("all_gather", False, 2 * 2 * 5 + 1),
            ("all_reduce", False, 2 * 2 * 5),
            ("all_reduce", False, 2 * 2 * 4),
        ]
        assert [name for name, is_default, _ in calls if is_default] == ["all_reduce"]


def test_elsewhere_all_share_the_default_group() -> None:
    for calls in run_workers(2, _calls, False):
        assert all(is_default for _, is_default, _ in calls)
        assert len(calls) == 5


def _timeouts(rank: int, world_size: int) -> list[timedelta]:
    """Of the default group, and of batch norm's."""
    dist.destroy_process_group()
    name = f"file://{tempfile.gettempdir()}/alone-{os.getpid()}"
    dist.init_process_group("gloo", init_method=name, rank=0, world_size=1, timeout=WAITS)
    with patch.object(groups, "wants_own_communicator", lambda: True):
        own = groups.statistics_group()
    assert own is not None
    cpu = torch.device("cpu")
    made = [group._get_backend(cpu).options._timeout for group in (dist.group.WORLD, own)]
    return list(made)


WAITS = timedelta(seconds=77)


def test_a_group_waits_as_long_as_the_default_one() -> None:
    assert run_workers(1, _timeouts) == [[WAITS, WAITS]]
