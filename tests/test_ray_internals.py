"""Ray's private parts are where they are used; a new version that moves them fails here."""

import ast
import json
import os
from collections.abc import Iterator
from dataclasses import fields
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import ray.data

from bt_ray import ray_internals
from bt_ray.config import Settings, override
from bt_ray.data.stream import ingest
from bt_ray.ray_internals import AttentiveScheduling, BoundedQueues, schedule_attentively

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    path.relative_to(ROOT).as_posix()
    for room in ("bt_ray", "pipelines", "tune_spaces", "benchmarks")
    for path in (ROOT / room).rglob("*.py")
)
OF_OPTUNA = {"_storage", "_study_id", "_trial_id", "_cached_frozen_trial"}
OF_TUNE = {"_brackets", "_ot_study", "_ot_trials"}


def _private_parts(code: str) -> Iterator[str]:
    """Modules and attributes of Ray and Optuna that are not for everybody."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            if isinstance(node, ast.Attribute) and node.attr in OF_OPTUNA | OF_TUNE:
                owner = node.value
                if node.attr in OF_TUNE or not (isinstance(owner, ast.Name) and owner.id == "self"):
                    yield node.attr
            continue
        for name in names:
            if name.startswith(("ray.", "optuna.")) and ("._" in name or ".v2." in name):
                yield name


def test_private_parts_are_seen() -> None:
    code = """
from ray.data._internal import x
import ray.train.v2.api.callback
from optuna import _imports
study._storage
self._brackets
self._storage
from ray.train import UserCallback
"""
    assert list(_private_parts(code)) == [
        "ray.data._internal.x",
        "ray.train.v2.api.callback",
        "optuna._imports",
        "_storage",
        "_brackets",
    ]


@pytest.mark.parametrize("source", SOURCES)
def test_private_parts_of_ray_are_used_in_one_file_and_optunas_nowhere(source: str) -> None:
    if source != "bt_ray/ray_internals.py":
        assert list(_private_parts((ROOT / source).read_text())) == []


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_ray_data_waits_as_long_as_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """It calls both of the callback's methods, and its loop reads the wait at each step."""
    name, version = "WAIT_FOR_TASK_COMPLETION_TIMEOUT_S", f"Ray {ray.__version__}"
    state = ray_internals.streaming_executor_state
    assert hasattr(state, name), f"{version} has no {name}: cores would idle between tasks."
    monkeypatch.setattr(state, name, 0.1)
    waits, steps = list[float](), list[object]()
    wait, step = ray.wait, AttentiveScheduling.on_execution_step

    def spy_wait(*arguments: Any, **options: Any) -> Any:
        waits.append(options.get("timeout"))
        return wait(*arguments, **options)

    def spy_step(self: AttentiveScheduling, executor: object) -> None:
        steps.append(executor)
        step(self, executor)

    monkeypatch.setattr(ray, "wait", spy_wait)
    monkeypatch.setattr(AttentiveScheduling, "on_execution_step", spy_step)
    schedule_attentively(ray.data.DataContext.get_current())
    ray.data.range(4, override_num_blocks=4).map(lambda row: row).materialize()
    assert ray_internals._LONGEST_WAIT_S in waits, f"{version} does not wait so: {set(waits)} s."
    assert steps, f"{version} does not call on_execution_step: a core would spin."


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_ray_data_runs_no_further_ahead_than_it_may(
    small_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forty chunks, two readers; without the limits all are named, and most read, at once."""
    options = ray.data.DataContext.get_current().execution_options
    monkeypatch.setattr(options, "preserve_order", True)
    monkeypatch.setattr(ingest, "num_readers", lambda *_: 2)
    monkeypatch.setattr(ingest, "steps_of_a_row", lambda _: 1)
    seen = dict[str, list[int]](named=[], read=[], refused=[])
    may, most = BoundedQueues.can_add_input, BoundedQueues.max_task_output_bytes_to_read

    def spy_may(self: BoundedQueues, op: Any) -> bool:
        answer = may(self, op)
        if op is self._reader:
            seen["read"].append(self._ahead(op))
            seen["refused"].append(not answer)
        return answer

    def spy_most(self: BoundedQueues, op: Any) -> int | None:
        if op is self._namer:
            seen["named"].append(self._waiting(op))
        return most(self, op)

    monkeypatch.setattr(BoundedQueues, "can_add_input", spy_may)
    monkeypatch.setattr(BoundedQueues, "max_task_output_bytes_to_read", spy_most)
    settings = override(small_settings, {"data.window_mb": 1})
    dataset = ingest.build_dataset(settings, start=0, stop=40)
    steps = [int(row["step"][0][0]) for row in dataset.iter_batches(batch_size=1)]
    assert steps == list(range(40))
    version = f"Ray {ray.__version__}"
    assert max(seen["read"]) == 2, f"{version} reads {max(seen['read'])} chunks ahead."
    assert any(seen["refused"]), f"{version} asks no policy before a task."
    assert max(seen["named"]) <= 4, f"{version} names {max(seen['named'])} chunks ahead."


class Told:
    """A watcher that notes what it is told."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def finds_room(self) -> bool:
        return not self.heard

    def began(self) -> None:
        self.heard.append("began")

    def runs(self) -> None:
        self.heard.append("runs")

    def lost(self, error: Exception, *, was_announced: bool) -> None:
        self.heard.append(f"lost {was_announced}")

    def waits(self, error: Exception) -> None:
        self.heard.append("waits")


def test_ray_trains_controller_tells_of_its_workers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ray.train import ControllerError, PreemptionError, WorkerGroupError
    from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
    from ray.train.v2._internal.execution.callback import ControllerCallback
    from ray.train.v2._internal.execution.controller import state
    from ray.train.v2._internal.execution.failure_handling.default import (
        RETRYABLE_CONTROLLER_ERRORS,
    )
    from ray.train.v2.api.preemption import PreemptionInfo

    class DrainedError(ray.exceptions.ActorDiedError):
        preempted = True

    gone = WorkerHealthCheckFailedError("", DrainedError())
    losses: list[Any] = [
        WorkerGroupError("fell", {1: RuntimeError("at work")}),
        WorkerGroupError("gone", {0: RuntimeError("its peer is gone"), 1: gone}),
        PreemptionError(PreemptionInfo(None, {"node": [0]})),
    ]
    told = Told()
    watch = ray_internals.Watch(told, {"HAS": "ours", "LACKS": "ours"})
    monkeypatch.setenv("HAS", "the user's")
    monkeypatch.setenv("LACKS", "")
    monkeypatch.delenv("LACKS")
    watch.after_controller_start(None)
    assert (os.environ["HAS"], os.environ["LACKS"]) == ("the user's", "ours")
    resize = SimpleNamespace(num_workers=2)
    watch.before_controller_execute_resize_decision(resize)
    previous: Any = state.InitializingState()
    for current in (
        state.RunningState(),
        state.RunningState(),  # one poll after the other
        *(state.RestartingState(loss) for loss in losses),
        state.ReschedulingState(ControllerError(TimeoutError())),
        state.RunningState(),
    ):
        watch.after_controller_state_update(previous, current)
        previous = current
    watch.after_worker_group_poll_status(None)
    assert told.heard.pop() == "runs"
    assert told.heard == ["began", "lost False", "lost True", "lost True", "waits", "began"]
    with pytest.raises(RETRYABLE_CONTROLLER_ERRORS):  # so Ray Train asks again
        watch.before_controller_execute_resize_decision(resize)
    for name in (
        "after_controller_start",
        "after_controller_state_update",
        "before_controller_execute_resize_decision",
    ):
        theirs, ours = getattr(ControllerCallback, name), getattr(ray_internals.Watch, name)
        assert [*signature(theirs).parameters] == [*signature(ours).parameters], name


def test_ray_train_notes_its_version_with_its_checkpoints() -> None:
    from ray.train.v2._internal.execution.checkpoint import checkpoint_manager as theirs

    assert ray_internals.TRAIN_NOTES.endswith(".json")
    assert "ray_version" in theirs._CheckpointManagerState.model_fields


def test_a_worker_looks_where_ray_train_notes_that_its_node_is_drained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ray.train.v2._internal.execution.context import TrainContext
    from ray.train.v2._internal.execution.preemption import PreemptionContext

    assert "preemption_context" in {field.name for field in fields(TrainContext)}
    place = SimpleNamespace(preemption_context=PreemptionContext())
    monkeypatch.setattr(ray_internals, "get_train_context", lambda: place)
    assert not ray_internals.is_drained()
    place.preemption_context.preemption_info = object()
    assert ray_internals.is_drained()


def test_nodes_that_an_autoscaler_brings_have_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is none, Ray's monitor makes up one for each node."""
    assert not ray_internals.has_autoscaler()  # no cluster is joined
    monkeypatch.setattr(ray_internals, "_internal_kv_initialized", lambda: True)
    monkeypatch.setattr(ray_internals, "is_autoscaler_v2", lambda: False)
    for status, has in (
        (None, False),
        ({"autoscaler_report": {"node_type_mapping": None}}, False),
        ({"autoscaler_report": {"node_type_mapping": {"10.0.0.1": "node_3321a7"}}}, False),
        ({"autoscaler_report": {"node_type_mapping": {"10.0.0.1": "ray.head.default"}}}, True),
    ):
        said = None if status is None else json.dumps(status).encode()
        monkeypatch.setattr(ray_internals, "_internal_kv_get", lambda _, said=said: said)
        assert ray_internals.has_autoscaler() is has


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_ray_train_takes_as_many_workers_as_the_policy_says(tmp_path: Path) -> None:
    """Four CPUs, one of them for reading data; Ray's own policy would take all four."""
    from ray.train import RunConfig, ScalingConfig, get_context
    from ray.train.torch import TorchTrainer

    trainer = TorchTrainer(
        lambda: get_context().get_world_size(),
        scaling_config=ScalingConfig(num_workers=(1, 4)),  # type: ignore[arg-type]
        run_config=RunConfig(storage_path=str(tmp_path)),
    )
    policy = ray_internals.ClusterPolicy(
        trainer.scaling_config, spare_cpus=1.0, grow_after_s=0.0, last_step=1
    )
    ray_internals.scale_by(trainer, policy)
    workers = trainer.fit().return_value
    assert workers == 3, f"Ray {ray.__version__} starts {workers} workers."
