"""How many losses a run survives, and how long it waits for lost nodes."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.train import ControllerError

from bt_ray.config import Settings, override
from bt_ray.errors import RunFailedError
from bt_ray.presets import preset
from bt_ray.ray_internals import TRAIN_NOTES, Watch
from bt_ray.storage.store import Store
from bt_ray.training import cluster, fit, incidents
from bt_ray.training.assignment import Pretraining
from bt_ray.training.incidents import Incidents, nccl_environment, watch, why


class LostError(Exception):
    """As Ray Train tells it: of eight workers of one node."""

    def __init__(self) -> None:
        super().__init__()
        self.worker_failures = {r: RuntimeError(f"node of {r} died\nat length") for r in range(8)}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(incidents.time, "monotonic", lambda: now[0])
    return now


def _settings(**scaling: Any) -> Settings:
    changes = {"data.global_batch": 64, "scaling.workers": 8, "scaling.accelerator": "gpu"}
    return override(preset("digits"), changes | {f"scaling.{k}": v for k, v in scaling.items()})


def _has(monkeypatch: pytest.MonkeyPatch, **resources: float) -> None:
    monkeypatch.setattr(incidents.ray, "cluster_resources", lambda: resources)


class Storage:
    """Holds checkpoints; says how many steps the newest one has."""

    steps = 0

    def __call__(self) -> int:
        return self.steps


def _incidents(saved: Storage | None = None, **scaling: Any) -> Incidents:
    return Incidents(_settings(**scaling), saved or Storage())


def test_any_number_of_losses_is_survived_with_a_checkpoint_after_every_third() -> None:
    saved = Storage()
    seen = _incidents(saved, max_failures=3)
    for _ in range(300):
        for _ in range(3):
            seen.lost(LostError(), was_announced=False)
        saved.steps += 20


def test_one_more_in_a_row_ends_the_run_with_a_sentence() -> None:
    seen = _incidents(max_failures=2)
    for _ in range(2):
        seen.lost(LostError(), was_announced=False)
        seen.began()  # that workers start is no progress
    with pytest.raises(
        RunFailedError,
        match=r"on worker 0: node of 0 died.* failure 3 in a row.*max_failures=2\).*same command",
    ):
        seen.lost(LostError(), was_announced=False)


def test_losses_that_were_announced_are_not_counted() -> None:
    seen = _incidents(max_failures=0)
    for _ in range(20):
        seen.lost(LostError(), was_announced=True)
    with pytest.raises(RunFailedError):
        seen.lost(LostError(), was_announced=False)


def test_deaths_of_the_controller_count_on() -> None:
    """The driver counts them, and what it counts goes to the next controller."""
    seen = _incidents(max_failures=3)
    assert [seen.count() for _ in range(3)] == [1, 2, 3]
    copy = pickle.loads(pickle.dumps(seen))
    with pytest.raises(RunFailedError):
        copy.lost(LostError(), was_announced=False)


class GroupError(Exception):
    """As Ray Train tells of failures by worker."""

    def __init__(self, **workers: Exception) -> None:
        super().__init__("Training failed due to worker errors:\nat length")
        self.worker_failures = {int(name[1:]): failure for name, failure in workers.items()}


class CheckError(Exception):
    """A worker that does not answer, and why, as Ray Train tells it."""

    def __init__(self, failure: Exception) -> None:
        super().__init__(f"A worker health check failed.\n{failure}")
        self.health_check_failure = failure


TRACE = RuntimeError("Traceback (most recent call last):\n  at work\nRuntimeError: peer is gone")


@pytest.mark.parametrize(
    ("failure", "sentence"),
    [
        (
            RuntimeError("A worker health check has been hanging for 46 s.\nWorker info\nSet this"),
            "A worker health check has been hanging for 46 s.",
        ),
        (
            CheckError(RayActorError("id", "The actor died.\n\tip: 10.0.0.1\nIts node has died.")),
            "Its node has died.",
        ),
        (
            CheckError(
                OutOfMemoryError("Task was killed.\nMemory was 29 GB.\nRefer to the pages.")
            ),
            "Task was killed. Memory was 29 GB.",
        ),
        (CheckError(RuntimeError()), "RuntimeError"),
    ],
)
def test_of_all_failures_the_cause_is_said(failure: Exception, sentence: str) -> None:
    """Worker 0 fails only because it waits for worker 1."""
    assert why(GroupError(_0=TRACE, _1=failure)) == f" on worker 1: {sentence}"
    assert why(GroupError(_0=TRACE)) == " on worker 0: RuntimeError: peer is gone"
    assert why(ControllerError(failure)) == f": {sentence}"


def test_a_lost_node_is_waited_for_and_what_is_missing_is_said(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = _incidents(wait_minutes=5)
    seen.lost(LostError(), was_announced=False)
    clock[0] = 299
    seen.waits(TimeoutError("no place"))
    seen.began()  # the node is back; another loss is waited for as long
    seen.lost(LostError(), was_announced=True)
    clock[0] = 500
    seen.waits(TimeoutError("no place"))
    clock[0] = 600
    _has(monkeypatch, CPU=200.0, GPU=7.0)
    with pytest.raises(
        RunFailedError,
        match=r"for 5 minutes .*=8 need a GPU each; the cluster has 7\..*same command",
    ):
        seen.waits(TimeoutError("no place"))
    _has(monkeypatch, CPU=200.0, GPU=8.0)
    with pytest.raises(RunFailedError, match=r"others use it, or they fail: no place"):
        seen.waits(TimeoutError("no place"))


def test_left_out_the_wait_after_a_loss_is_a_quarter_of_an_hour(clock: list[float]) -> None:
    seen = _incidents()
    seen.lost(LostError(), was_announced=False)
    clock[0] = 899
    seen.waits(TimeoutError())


def test_without_a_wait_workers_have_seconds_to_get_their_places(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One may land on a node that dies at that moment."""
    _has(monkeypatch, CPU=200.0, GPU=8.0)
    seen = _incidents(wait_minutes=0)
    seen.lost(LostError(), was_announced=False)
    clock[0] = 9
    seen.waits(TimeoutError())
    clock[0] = 10
    with pytest.raises(RunFailedError, match="for 0 minutes"):
        seen.waits(TimeoutError())


def test_workers_get_places_soon_or_ray_train_tries_again() -> None:
    """Ray Train asks only then whether the wait is over."""
    for minutes, seconds in ((0, 10.0), (0.5, 30.0), (60, 60.0), (None, 60.0)):
        assert incidents._start_timeout_s(_settings(wait_minutes=minutes)) == seconds


def test_what_the_user_sets_for_nccl_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_NCCL_DUMP_ON_TIMEOUT", "0")
    environment = nccl_environment()
    assert environment["TORCH_NCCL_DUMP_ON_TIMEOUT"] == "0"
    assert environment["TORCH_NCCL_ASYNC_ERROR_HANDLING"] == "1"


def test_an_autoscaler_is_waited_for_without_being_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for has, minutes in ((True, 15), (False, 0)):
        monkeypatch.setattr(cluster, "has_autoscaler", lambda has=has: has)
        assert cluster.minutes_to_wait(_settings(), is_start=True) == minutes
        assert cluster.minutes_to_wait(_settings(wait_minutes=0), is_start=True) == 0


def test_workers_do_not_start_where_nothing_is_left_to_read_their_data(
    monkeypatch: pytest.MonkeyPatch, clock: list[float]
) -> None:
    """They would wait for it forever. An autoscaler is asked for what is missing."""
    asked = list[Any]()
    monkeypatch.setattr(cluster, "request_resources", lambda bundles: asked.append(bundles))

    def pause(seconds: float) -> None:
        clock[0] += seconds
        if clock[0] >= comes_after:
            _has(monkeypatch, CPU=9.0)

    monkeypatch.setattr(incidents.time, "sleep", pause)
    seen = _incidents(accelerator="cpu", cpus_per_worker=1)
    comes_after = 20
    _has(monkeypatch, CPU=8.0)
    assert seen.finds_room()
    assert (clock[0], asked[0], asked[-1]) == (20, [{"CPU": 1.0}] * 9, [])
    comes_after = 200
    _has(monkeypatch, CPU=8.0)
    assert not seen.finds_room()
    assert clock[0] == 80


def test_a_worker_that_does_not_answer_is_found_within_a_minute() -> None:
    """And peers that wait for it in a sum do not hold up its replacement."""
    told = watch(_incidents(), _settings())._environment
    found_s = float(told["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"])
    assert found_s + float(told["TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S"]) < 60
    assert found_s >= 30  # a busy machine is no dead one


def test_ray_train_is_told_of_the_time_out_and_counts_nothing_itself(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(fit, "_most_decoders", lambda settings: None)
    settings = _settings(collective_timeout_s=77, max_failures=1)
    trainer = fit._trainer({"assignment": Pretraining(settings)}, 9, (), _incidents(), on_gpu=True)
    assert trainer.backend_config.timeout_s == 77
    counts = trainer.run_config.failure_config
    assert (counts.max_failures, counts.controller_failure_limit) == (-1, -1)
    workers = trainer.run_config.worker_runtime_env["env_vars"]
    assert workers["TORCH_NCCL_ASYNC_ERROR_HANDLING"] == "1"
    assert any(isinstance(told, Watch) for told in trainer.run_config.callbacks)


def test_workers_that_nobody_reads_data_for_any_more_are_ended_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch, clock: list[float]
) -> None:
    """The nodes that read were lost, and theirs were not. Nodes that come back in time are fine."""
    seen = _incidents(accelerator="cpu", cpus_per_worker=1, wait_minutes=5)

    def go_on(until_s: float, cpus: float) -> None:
        _has(monkeypatch, CPU=cpus)
        while clock[0] < until_s:
            clock[0] += 2
            seen.runs()

    for until_s, cpus in ((100, 9), (390, 8), (400, 9), (690, 8)):
        go_on(until_s, cpus)
    with pytest.raises(
        RunFailedError, match=r"for 5 minutes .*make 9 CPUs; the cluster has 8\..*same command"
    ):
        go_on(800, 8)
    assert clock[0] == pytest.approx(710, abs=20)


@pytest.mark.parametrize(
    ("notes", "stays"),
    [("", False), ('{"checkpoint_results"', False), ("[]", False),
     ('{"ray_version": "2.0.0"}', False), (f'{{"ray_version": "{ray.__version__}"}}', True)],
)  # fmt: skip
def test_rays_notes_that_it_would_refuse_are_dropped(
    tmp_path: Path, notes: str, stays: bool
) -> None:
    """A full disk empties them, and Ray would not begin."""
    file = tmp_path / TRAIN_NOTES
    fit.drop_unreadable_notes(Store(str(tmp_path)))
    file.write_text(notes)
    fit.drop_unreadable_notes(Store(str(tmp_path)))
    assert file.exists() == stays
