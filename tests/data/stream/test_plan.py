import time

import numpy as np
import pytest

from bt_ray.data.stream.plan import Plan, choose_window
from bt_ray.errors import DataError

PLANS = [
    Plan(1437, 64, 256, 0, 1000),  # one window
    Plan(1437, 64, 128, 3, 4),  # windows of two batches, a short last row group
    Plan(1000, 10, 30, 1, 9),  # whole batches a window
    Plan(1000, 10, 30, 1, 10),  # ten rows of each window sit out
    Plan(64, 64, 64, 0, 1),  # one batch
]


@pytest.mark.parametrize("plan", PLANS)
def test_no_sample_comes_twice_in_an_epoch_and_the_tail_rule_holds(plan: Plan) -> None:
    epoch = np.concatenate([plan.batch(step) for step in range(plan.steps_per_epoch)])
    assert len(np.unique(epoch)) == len(epoch) == plan.steps_per_epoch * plan.global_batch
    assert epoch.min() >= 0
    assert epoch.max() < plan.num_rows


@pytest.mark.parametrize("plan", [PLANS[0], PLANS[1], PLANS[2], PLANS[4]])
def test_fewer_samples_than_a_batch_sit_out_where_windows_are_whole_batches(plan: Plan) -> None:
    assert plan.num_rows - plan.steps_per_epoch * plan.global_batch < plan.global_batch


@pytest.mark.parametrize("plan", PLANS)
def test_the_spans_of_a_run_cover_its_steps_once_from_any_start(plan: Plan) -> None:
    stop = 3 * plan.steps_per_epoch
    for start in range(0, stop, 3):
        steps = [
            step
            for span in plan.spans(start, stop)
            for step in range(max(start, span.first_step), min(stop, span.stop_step))
        ]
        assert steps == list(range(start, stop))


@pytest.mark.parametrize("plan", PLANS)
def test_no_row_group_is_read_by_two_windows_of_an_epoch(plan: Plan) -> None:
    windows = [plan.window(s.first_step) for s in plan.spans(0, plan.steps_per_epoch)]
    groups = np.concatenate([window.row_groups for window in windows])
    assert sorted(groups) == list(range(-(-plan.num_rows // plan.rows_per_row_group)))
    for window in windows:
        assert set(window.rows // plan.rows_per_row_group) <= set(window.row_groups)


def test_samples_that_sat_out_change_from_epoch_to_epoch() -> None:
    plan = PLANS[0]
    seen = np.concatenate([plan.batch(step) for step in range(10 * plan.steps_per_epoch)])
    assert len(np.unique(seen)) == plan.num_rows


def test_epochs_and_seeds_differ_and_a_repetition_does_not() -> None:
    plan = PLANS[1]
    assert not np.array_equal(plan.batch(0), plan.batch(plan.steps_per_epoch))
    assert not np.array_equal(plan.batch(0), Plan(1437, 64, 128, 4, 4).batch(0))
    assert np.array_equal(plan.batch(7), Plan(1437, 64, 128, 3, 4).batch(7))


def test_a_jump_within_imagenet_is_quick_and_small() -> None:
    plan = Plan(1_281_167, 128, 2048, 0, 32)
    last = 299 * plan.steps_per_epoch + int(0.99 * plan.steps_per_epoch)
    plan.batch(0)
    began = time.perf_counter()
    assert len(plan.batch(last)) == 2048
    assert time.perf_counter() - began < 0.1  # a bound on sanity, not a benchmark
    assert len(plan.window(last).rows) == 4096


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(DataError, match=r"global_batch=256 .* there are 100"):
        Plan(100, 64, 256, 0, 4)


@pytest.mark.parametrize(
    ("global_batch", "window_mb", "expected"),
    [(2048, 512, 32), (2048, 1, 16), (1000, 512, 38), (256, 10_000, 744)],
)
def test_window_fills_the_memory_with_whole_batches(
    global_batch: int, window_mb: int, expected: int
) -> None:
    """ImageNet's 110 kB images in row groups of 128."""
    groups = choose_window(
        num_rows=1_281_167,
        num_bytes=1_281_167 * 110_000,
        rows_per_row_group=128,
        global_batch=global_batch,
        window_mb=window_mb,
    )
    assert groups == expected
