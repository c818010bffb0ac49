"""Runs are made within what a plan allows, and one that fails is its own fault alone."""

from collections.abc import Callable
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest

from bt_ray.ablations import train
from bt_ray.ablations.ablate import Plan
from bt_ray.ablations.measures import Measures, curves_of, peak_memory_mb
from bt_ray.ablations.result import Result, keep_result, read_result
from bt_ray.ablations.train import Making, Order, train_all
from bt_ray.config import Settings, override
from bt_ray.errors import DataError, RunFailedError, RunStoppedError, SettingsError


class Here(Executor):
    """Makes each run in this process, at once."""

    def submit(self, run: Callable[..., Any], /, *arguments: Any, **_: Any) -> Future[Any]:
        made: Future[Any] = Future()
        try:
            made.set_result(run(*arguments))
        except Exception as error:
            made.set_exception(error)
        return made


@pytest.fixture
def pools(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the pools of processes that were asked for; runs are made in this process."""
    asked: list[int] = []

    def pool(size: int, **_: Any) -> Here:
        asked.append(size)
        return Here()

    monkeypatch.setattr(train, "ProcessPoolExecutor", pool)
    return asked


@pytest.fixture
def orders(small_settings: Settings) -> list[Order]:
    """Three runs of other seeds, without Ray."""
    settings = override(small_settings, {"scaling.workers": 0})
    return [Order(settings=override(settings, {"training.seed": n}), linear=None) for n in range(3)]


def faulty(monkeypatch: pytest.MonkeyPatch, errors: dict[int, Exception]) -> None:
    """Has runs of these seeds end by these errors, all others with a score."""

    def make(order: Order, folder: Path, parent: object) -> Result:
        seed = order.settings.training.seed
        if seed in errors:
            raise errors[seed]
        result = train._result(order, Measures(scores={"knn_top1": seed / 10}), None, 1.0)
        keep_result(result, folder)
        return result

    monkeypatch.setattr(train, "train_one", make)


@pytest.mark.parametrize(
    "error",
    [
        DataError("The images are gone."),
        RuntimeError("CUDA out of memory."),
        BrokenProcessPool("A child died."),
    ],
)
def test_a_run_that_fails_apart_is_a_result_that_is_not_kept(
    orders: list[Order], pools: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:  # fmt: skip
    """The others are made; the next call makes the failed one again, and that one alone."""
    faulty(monkeypatch, {1: error})
    found = [result for result, _ in train_all(orders, tmp_path, Making(apart=True))]
    assert pools == [1, 1, 1]  # a process for each
    assert [result.failure is None for result in found] == [True, False, True]
    said = "perhaps for want of memory" if isinstance(error, BrokenProcessPool) else str(error)
    assert said in str(found[1].failure)
    assert found[1].scores == {}
    assert len(list(tmp_path.glob("*.json"))) == 2
    faulty(monkeypatch, {})
    again = list(train_all(orders, tmp_path, Making(apart=True)))
    assert sorted((result.seed, is_new) for result, is_new in again) == [
        (0, False), (1, True), (2, False)
    ]  # fmt: skip


def test_of_shared_processes_the_first_error_ends_all(
    orders: list[Order], pools: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty(monkeypatch, {0: DataError("The images are gone.")})
    with pytest.raises(DataError, match="The images are gone"):
        list(train_all(orders, tmp_path, Making()))
    faulty(monkeypatch, {0: BrokenProcessPool("A child died.")})
    with pytest.raises(RunFailedError, match="with a lower --at-once"):
        list(train_all(orders, tmp_path, Making()))
    assert pools == [1, 1]


def test_a_request_to_stop_is_no_result(
    orders: list[Order], pools: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty(monkeypatch, {0: RunStoppedError("SIGTERM stopped the run.")})
    with pytest.raises(RunStoppedError):
        list(train_all(orders, tmp_path, Making(apart=True)))


def test_no_run_is_started_after_the_time_is_up(
    orders: list[Order], pools: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in a file is still found."""
    faulty(monkeypatch, {})
    asked = iter((True, False))
    first = list(train_all(orders, tmp_path, Making(may_start=lambda: next(asked))))
    assert [result.seed for result, _ in first] == [0]
    late = list(train_all(orders, tmp_path, Making(may_start=lambda: False)))
    assert [(result.seed, is_new) for result, is_new in late] == [(0, False)]


@pytest.mark.parametrize("hours", [0.0, -1.0, float("inf"), float("nan")])
def test_a_time_limit_that_is_none_is_refused(hours: float) -> None:
    with pytest.raises(SettingsError, match=r"--max-hours .* must be a finite number above 0"):
        Plan(max_hours=hours)


def test_scoring_is_part_of_a_result_s_name(orders: list[Order]) -> None:
    """And plain orders are named as they were before there were few labels."""
    settings = orders[0].settings
    few = Order(settings=settings, linear="fast", label_percent=1.0)
    plain = Order(settings=settings, linear="fast")
    first = Order(settings=settings, linear="fast", trains=False)
    assert len({few.key, plain.key, first.key, orders[0].key}) == 4
    assert plain.key == train.key_of(settings, "knn and fast linear")
    assert orders[0].key == train.key_of(settings, "knn")


def test_a_result_without_costs_is_still_read(orders: list[Order], tmp_path: Path) -> None:
    """Files of before have neither speed nor memory nor curves."""
    result = train._result(orders[0], Measures(scores={"knn_top1": 0.5}), None, 1.0)
    file = keep_result(result, tmp_path)
    lines = file.read_text().splitlines()
    start = next(n for n, line in enumerate(lines) if '"images_per_s"' in line)
    file.write_text("\n".join([*lines[: start - 1], lines[start - 1].rstrip(","), "}"]))
    found = read_result(tmp_path, result.key, orders[0].settings)
    assert found == result
    assert found.seconds_a_step is None


def test_costs_and_curves_follow_from_the_run_s_records(orders: list[Order]) -> None:
    history = {"knn/top1": {0: 0.5, 2: 0.625, 4: 0.75}, "system/worker_memory_megabytes": {2: 9e9}}
    assert curves_of(history, 2) == {"knn_top1": [[0.0, 0.5], [1.0, 0.625], [2.0, 0.75]]}
    own = peak_memory_mb(orders[0].settings, history)
    assert own is not None
    assert 50 < own < 9e9  # of this process, in MiB, and not what Ray's worker said
    on_ray = override(orders[0].settings, {"scaling.workers": 1})
    assert peak_memory_mb(on_ray, history) == 9e9
    assert peak_memory_mb(on_ray, {}) is None
    measures = Measures(scores={}, images_per_s=64.0)
    assert train._result(orders[0], measures, None, 1.0).seconds_a_step == 2.0  # of a batch of 128
