"""How well the plan mixes: as good as chance, as far as it is told apart."""

import time
import tracemalloc
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats

from bt_ray.config import Settings, override
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.stream.batches import local_batches
from bt_ray.data.stream.ingest import PlanSource, Reader
from bt_ray.data.stream.plan import Plan, build_plan

IMAGENET_ROWS, ROWS_PER_GROUP, GLOBAL_BATCH = 1_281_167, 128, 2048


def imagenet(window_row_groups: int = 32) -> Plan:
    return Plan(IMAGENET_ROWS, ROWS_PER_GROUP, GLOBAL_BATCH, 0, window_row_groups)


def group_order(plan: Plan, epoch: int) -> np.ndarray:  # type: ignore[type-arg]
    first = epoch * plan.steps_per_epoch
    spans = plan.spans(first, first + plan.steps_per_epoch)
    return np.concatenate([plan.window(span.first_step).row_groups for span in spans])


def test_the_orders_of_two_epochs_are_uncorrelated() -> None:
    """Spearman's ρ of R shuffled places has a deviation of 1/√R: 4/√R is never reached."""
    plan = imagenet()
    places = [np.argsort(group_order(plan, epoch)) for epoch in range(6)]
    for one, other in pairwise(places):
        assert abs(stats.spearmanr(one, other).statistic) <= 4 / np.sqrt(len(one))


@pytest.mark.parametrize("window_row_groups", [16, 32, 128])
def test_neighbours_come_from_the_same_row_group_as_often_as_chance_has_it(
    window_row_groups: int,
) -> None:
    plan = imagenet(window_row_groups)
    same = []
    for step in range(0, plan.steps_per_epoch, 10):
        groups = plan.batch(step) // ROWS_PER_GROUP
        same.append(np.mean(groups[1:] == groups[:-1]))
    assert np.mean(same) <= 1.2 / window_row_groups


def test_no_worker_is_tied_to_a_part_of_the_data() -> None:
    """Over an epoch each of four workers has as much of each hundredth of the data: χ²."""
    plan, workers, parts = imagenet(), 4, 100
    counts = np.zeros((workers, parts))
    for step in range(plan.steps_per_epoch):
        part = plan.batch(step).reshape(workers, -1) * parts // IMAGENET_ROWS
        for worker in range(workers):
            counts[worker] += np.bincount(part[worker], minlength=parts)
    assert stats.chi2_contingency(counts).pvalue > 1e-4


def test_a_step_takes_no_more_memory_late_than_early() -> None:
    plan = imagenet()
    plan.batch(0)
    peaks = []
    for first in (0, 100, 299 * plan.steps_per_epoch):
        tracemalloc.start()
        for step in range(first, first + 20):
            plan.batch(step)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert max(peaks) < 2 * min(peaks) < 4 * 2**20


def test_a_jump_takes_as_long_to_the_end_of_an_epoch_as_to_its_start() -> None:
    """Alike within a factor that only a walk through the epoch would exceed."""
    plan = imagenet()
    seconds = {0.01: [], 0.99: []}  # type: dict[float, list[float]]
    for epoch in range(1, 30):
        for share, taken in seconds.items():
            step = epoch * plan.steps_per_epoch + int(share * plan.steps_per_epoch)
            began = time.perf_counter()
            plan.batch(step)
            taken.append(time.perf_counter() - began)
    early, late = (float(np.median(taken)) for taken in seconds.values())
    assert late < 5 * early


@pytest.fixture
def settings(small_settings: Settings) -> Settings:
    """Batches of 32, so that windows of one row group hold two steps."""
    return override(small_settings, {"data.global_batch": 32})


@pytest.mark.parametrize("start", [0, 1, 4])
def test_no_row_group_is_read_twice_in_an_epoch(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, start: int
) -> None:
    shards = ShardSet.open(settings.data.train)
    plan = replace(build_plan(settings, shards.manifest), window_row_groups=1)
    read = list[int]()
    whole = ShardSet.read
    monkeypatch.setattr(
        ShardSet, "read", lambda self, groups: read.extend(groups.tolist()) or whole(self, groups)
    )
    monkeypatch.setattr("bt_ray.data.stream.batches.build_plan", lambda *_: plan)
    stop, device = plan.steps_per_epoch, torch.device("cpu")
    assert list(local_batches(settings, shards, start=start, stop=stop, device=device))
    assert len(read) == len(set(read)) > 1
    read.clear()
    reader = Reader(shards, plan, workers=2, start=start, most_steps=3)
    for task in PlanSource(plan, start=start, stop=stop, most_steps=3).get_read_tasks(1):
        for chunk in task():
            list(reader(chunk))
    assert len(read) == len(set(read)) > 1
