"""Batch norm over groups of rows, beside torch's, one for each group."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from bt_ray.model.batch_norm import (
    GroupedBatchNorm,
    globalize_batch_norm,
    group_batch_norm,
    share_statistics,
)
from bt_ray.model.recompute import still_statistics
from tests.model.test_batch_norm import make, outcome
from tests.workers import run_workers

GROUP = 4


@pytest.mark.parametrize("shape", [(12, 5), (12, 3, 4, 4)])
def test_each_group_is_a_batch_of_torchs(shape: tuple[int, ...]) -> None:
    """Outputs and gradients; running statistics move by the mean of the groups'."""
    norm, x, weigh = make(shape, torch.float64)
    copies = [deepcopy(norm) for _ in range(shape[0] // GROUP)]
    parts = zip(copies, x.clone().split(GROUP), weigh.split(GROUP), strict=True)
    expected = [outcome(*part) for part in parts]
    found = outcome(group_batch_norm(norm, GROUP), x.clone(), weigh)
    for name in ("y", "x"):
        torch.testing.assert_close(found[name], torch.cat([one[name] for one in expected]))
    for name in ("weight", "bias"):
        torch.testing.assert_close(found[name], torch.stack([o[name] for o in expected]).sum(0))
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(found[name], torch.stack([o[name] for o in expected]).mean(0))
    assert found["num_batches_tracked"] == 1


def _share(rank: int, world_size: int) -> dict[str, Tensor]:
    norm, x, weigh = make((16, 3, 4, 4), torch.float64)
    own = slice(rank * 16 // world_size, (rank + 1) * 16 // world_size)
    module = nn.Sequential(group_batch_norm(norm, GROUP))
    for _ in range(2):
        outcome(module, x[own].clone(), weigh[own])
    share_statistics(module)
    return dict(module.named_buffers())


def test_two_workers_have_one_workers_running_statistics() -> None:
    """Once they are shared, also after two batches."""
    expected = _share(0, 1)
    for found in run_workers(2, _share):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_rows_that_are_no_whole_number_of_groups_are_refused() -> None:
    norm = group_batch_norm(nn.BatchNorm1d(3), GROUP)
    with pytest.raises(ValueError, match="a multiple of 4"):
        norm(torch.zeros(6, 3))
    assert norm.eval()(torch.zeros(6, 3)).shape == (6, 3)


def test_still_statistics_stay_and_normalise_alike() -> None:
    norm, x, _ = make((8, 5), torch.float64)
    grouped = group_batch_norm(norm, GROUP)
    y = grouped(x)
    before = {name: value.clone() for name, value in grouped.named_buffers()}
    with still_statistics(grouped):
        assert torch.equal(grouped(x), y)
    assert all(torch.equal(before[name], value) for name, value in grouped.named_buffers())


def test_it_stays_one_where_others_become_global() -> None:
    module = nn.Sequential(group_batch_norm(nn.BatchNorm1d(3), GROUP), nn.BatchNorm1d(3))
    globalize_batch_norm(module)
    assert [type(part).__name__ for part in module] == ["GroupedBatchNorm", "GlobalBatchNorm"]
    assert isinstance(module[0], GroupedBatchNorm)
