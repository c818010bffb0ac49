"""Means and spreads of the rows of all workers are those of the rows together."""

import pytest
import torch
from torch import Tensor

from bt_ray.methods.pretraining import spread
from bt_ray.methods.rows import mean_of_rows, spread_of_rows
from tests.workers import run_workers

ROWS = 7


def _rows() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(ROWS, 5, generator=generator, dtype=torch.float64) + 1


def _found(rank: int, world_size: int) -> list[float]:
    """Of this worker's rows, three of one and four of the other."""
    own = _rows().split([3, 4])[rank]
    return [float(spread_of_rows(own, ROWS)), float(mean_of_rows(own[:, 0], ROWS))]


def test_a_spread_is_that_of_chen_and_he() -> None:
    """From sums over rows, as from the rows themselves; 0 of a single point."""
    rows = _rows()
    torch.testing.assert_close(spread_of_rows(rows, ROWS), spread(rows).double())
    assert float(spread_of_rows(rows[:1].expand(ROWS, -1), ROWS)) < 1e-3


@pytest.mark.run
def test_workers_with_other_rows_find_those_of_all() -> None:
    rows = _rows()
    expected = [float(spread(rows)), float(rows[:, 0].mean())]
    for found in run_workers(2, _found):
        assert found == pytest.approx(expected, rel=1e-6)
