"""Runs by either form of the loss, on any number of workers, end with the same weights."""

from collections.abc import Callable
from typing import get_args

import pytest
import torch
from torch import Tensor

from bt_ray.config import Settings, override
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.stream.batches import local_batches
from bt_ray.distributed.gradients import data_parallel
from bt_ray.model.inputs import to_input
from bt_ray.objective import barlow
from bt_ray.objective.barlow import BarlowTwins
from bt_ray.objective.forms import Way
from bt_ray.optim.build import set_rates
from bt_ray.optim.schedule import rate_factor
from tests.states import build_state
from tests.workers import run_workers

CPU = torch.device("cpu")
STEPS, WARMUP_STEPS = 50, 10


def _train(
    rank: int, world_size: int, settings: Settings, dtype: torch.dtype, ways: list[Way]
) -> dict[Way, dict[str, Tensor]]:
    """Weights and running statistics after 50 steps by each way."""
    ended: dict[Way, dict[str, Tensor]] = {}
    for way in ways:
        barlow.choose_way = lambda *_, way=way, **__: way  # of this process alone
        state = build_state(settings, CPU)
        state.module.to(dtype)
        twins, objective = data_parallel(state.module), BarlowTwins(5e-3)
        shards = ShardSet.open(settings.data.train)
        batches = local_batches(
            settings, shards, start=0, stop=STEPS, device=CPU, rank=rank, world_size=world_size
        )
        for step, batch in enumerate(batches):
            factor = rate_factor(
                step, total_steps=STEPS, warmup_steps=WARMUP_STEPS, final_factor=1e-3
            )
            set_rates(state.optimizer, factor)
            views = (to_input(v, settings).to(dtype) for v in batch.views)
            objective(*twins(*views)).loss.backward()
            state.optimizer.step()
            state.optimizer.zero_grad()
        ended[way] = {
            name: value.detach().clone()
            for name, value in state.module.state_dict().items()
            if value.is_floating_point()
        }
    return ended


def drift(settings: Settings, dtype: torch.dtype) -> dict[Way, float]:
    """The largest distance of a tensor of any run from the plainest run's, by way."""
    expected = run_workers(1, _train, settings, dtype, ["correlation"])[0]["correlation"]
    start = build_state(settings, CPU).module.state_dict()
    moved = [distance(start[n], v) for n, v in expected.items() if n.endswith("weight")]
    assert max(moved) > 0.01
    distances: dict[Way, list[float]] = {way: [] for way in get_args(Way)}
    for world_size in (1, 2, 4):
        gram: list[Way] = ["gram_columns"] if world_size == 1 else ["gram_rows", "gram_columns"]
        for ended in run_workers(world_size, _train, settings, dtype, ["correlation", *gram]):
            for way, tensors in ended.items():
                distances[way] += [distance(tensors[n], value) for n, value in expected.items()]
    # The maximum of a tensor is NaN if one of its entries is.
    return {way: float(torch.tensor(of_way).max()) for way, of_way in distances.items()}


def distance(value: Tensor, expected: Tensor) -> float:
    return float((value.double() - expected.double()).norm() / expected.double().norm())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "weight_rate", "bound"),
    [(torch.float64, 2.0, 1e-11), (torch.float32, 0.2, 0.1)],
)
def test_fifty_steps_end_with_equal_weights(
    small_settings: Settings,
    dtype: torch.dtype,
    weight_rate: float,
    bound: float,
    record_property: Callable[[str, object], None],
) -> None:
    """LARS, warm-up, momentum and batch norm; both forms, both layouts; W = 1, 2 and 4.

    32 images in 64 dimensions, for which the Gram form is made. In float32 runs of different
    rounding drift apart: the figures are in docs/beyond-16000-dimensions.md.
    """
    changes = {"data.global_batch": 32, "optimizer.weight_rate": weight_rate}
    found = drift(override(small_settings, changes), dtype)
    for way, distance_of_way in found.items():
        record_property(way, distance_of_way)
    assert max(found.values()) < bound
