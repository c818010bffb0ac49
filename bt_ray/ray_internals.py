"""What is used of Ray's private parts, all of it here; checked with Ray 2.60.

`tests/test_ray_internals.py` fails when another version has moved them. Without those of Ray Data a
run comes to the same result, more slowly; those of Ray Train tell what becomes of its workers, and
how many there are.
"""

import json
import os
import socket
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import ray
from ray._private import ray_constants, services, state
from ray.autoscaler.v2.utils import is_autoscaler_v2
from ray.data import DataContext
from ray.data._internal.execution import streaming_executor_state
from ray.data._internal.execution.backpressure_policy import (
    ENABLED_BACKPRESSURE_POLICIES,
    ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY,
    BackpressurePolicy,
)
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data._internal.execution.operators.map_operator import MapOperator
from ray.data._internal.execution.operators.output_splitter import OutputSplitter
from ray.exceptions import RayError
from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_initialized
from ray.train.v2._internal.constants import CHECKPOINT_MANAGER_SNAPSHOT_FILENAME
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback
from ray.train.v2._internal.execution.context import get_train_context
from ray.train.v2._internal.execution.controller.state import (
    ReschedulingState,
    RestartingState,
    RunningState,
)
from ray.train.v2._internal.execution.failure_handling.default import _is_preemption_failure
from ray.train.v2._internal.execution.scaling_policy import (
    NoopDecision,
    ResizeDecision,
    ScalingDecision,
    ScalingPolicy,
)
from ray.util.metrics import Gauge

_LONGEST_WAIT_S = 0.02
_IDLE_STEP_S, _PAUSE_S = 0.01, 0.05
_TOLD_S = 1.0
"""Ray exports a gauge only while it is set every few seconds."""

_ANSWERED_S, _TOLD_WITHIN_S = 5.0, 30.0
"""Seconds for a node to take a connection; for Ray to say what is whose."""

TRAIN_NOTES = CHECKPOINT_MANAGER_SNAPSHOT_FILENAME
"""What Ray Train calls the file of its notes on checkpoints, in its folder of a run."""

CHUNKS_AHEAD = "chunks_ahead"
"""The gauge's name after `ray_bt_ray_`."""


class AttentiveScheduling(ExecutionCallback):
    """Lets Ray Data's scheduler see at once what is finished, and rest while nothing is wanted.

    Ray waits until *all* running tasks have something ready, for a tenth of a second at most. A
    core whose task is finished gets no other for that long, a good part of a task's time. Shorter
    waits give it one.

    While some finished task's output may not be taken yet, Ray does not wait at all. In training,
    whose data run ahead of it, that loop would use up a core. A step shorter than any wait is one
    of that loop, and a pause follows it. The pause is short, as a batch passes several such steps
    on its way to a worker.
    """

    def __init__(self) -> None:
        self._last_step = 0.0

    def before_execution_starts(self, executor: object) -> None:
        """Shortens the wait of the process that schedules."""
        streaming_executor_state.WAIT_FOR_TASK_COMPLETION_TIMEOUT_S = _LONGEST_WAIT_S

    def on_execution_step(self, executor: object) -> None:
        """Pauses after a step of the scheduler that did not wait."""
        if time.monotonic() - self._last_step < _IDLE_STEP_S:
            time.sleep(_PAUSE_S)
        self._last_step = time.monotonic()


def schedule_attentively(context: DataContext) -> None:
    """Has the data sets of this context scheduled so."""
    if AttentiveScheduling not in context.custom_execution_callback_classes:
        context.custom_execution_callback_classes.append(AttentiveScheduling)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How far a data set of the plan may run ahead of training.

    Ray Data bounds what lies between two operators by bytes alone: names of windows weigh nothing,
    and windows that are read before their turn fill up to half of the object store.
    """

    chunks: int
    """Chunks being read, and read before their turn."""
    encoded: int
    """Rows that wait for decoders."""
    decoded: int
    """Rows that wait for workers."""
    run: str = ""
    """What the gauge of chunks ahead has as its label `run`."""


_LIMITS = "bt_ray.limits"


class BoundedQueues(BackpressurePolicy):
    """Holds back an operator of the plan's data set while the next one has enough to do."""

    def __init__(self, data_context: DataContext, topology: Any, resource_manager: Any) -> None:
        super().__init__(data_context, topology, resource_manager)
        self._limits: Limits = data_context.get_config(_LIMITS)
        operators = [op for op in topology if isinstance(op, MapOperator)]
        self._namer = operators[0] if len(operators) > 2 else None  # else it is fused to the reader
        self._reader, self._decoder = operators[-2:]
        self._gauge = Gauge(
            f"bt_ray_{CHUNKS_AHEAD}", "Chunks read, or being read, ahead of decoders.", ("run",)
        )
        self._told = 0.0

    def can_add_input(self, op: Any) -> bool:
        """Whether the operator may start a task."""
        if op is self._reader:
            ahead = self._ahead(op)
            self._tell(ahead)
            return ahead < self._limits.chunks
        if op is self._decoder:
            return self._waiting(op) < self._limits.decoded
        return True

    def max_task_output_bytes_to_read(self, op: Any) -> int | None:
        """0 while what the operator's tasks have made must wait; 1, one block; none, all."""
        if op is self._namer:
            return int(self._waiting(op) < self._limits.chunks)
        if op is self._reader and self._waiting(op) >= self._limits.encoded:
            return 0
        return None

    def _tell(self, ahead: int) -> None:
        if time.monotonic() - self._told > _TOLD_S:
            self._gauge.set(ahead, {"run": self._limits.run})
            self._told = time.monotonic()

    @staticmethod
    def _ahead(op: Any) -> int:
        """Tasks that were started, and are not yet the last one whose outputs were taken."""
        queue = op._output_queue
        queue.has_next()  # passes over tasks that have ended
        return int(op._next_data_task_idx - queue._current_key)

    def _waiting(self, op: Any) -> int:
        """Blocks of this operator that the next one, or a worker, has not taken yet."""
        count = 0
        for after in op.output_dependencies:
            state = self._topology[after]
            count += state.total_enqueued_input_blocks()
            if isinstance(after, OutputSplitter):
                count += state.total_enqueued_output_blocks()
        return int(count)


def limit_blocks_ahead(context: DataContext, limits: Limits) -> None:
    """Has the data set of this context, whose order is preserved, keep to the limits."""
    context.set_config(_LIMITS, limits)
    context.set_config(
        ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY, [*ENABLED_BACKPRESSURE_POLICIES, BoundedQueues]
    )


def find_running_cluster() -> str | None:
    """HOST:PORT of the cluster on this machine that Ray would take for `auto`; none if none runs.

    It may be one that has died since.
    """
    try:
        return str(services.canonicalize_bootstrap_address("auto"))
    except ConnectionError:
        return None


class Watcher(Protocol):
    """Who is told, in Ray Train's controller, what becomes of a run's workers.

    An error of these methods ends the run; Ray Train then raises it in a ControllerError.
    """

    def finds_room(self) -> bool:
        """Whether workers may be started now; waits for it some time. If not, it is asked again."""

    def began(self) -> None:
        """All workers have started."""

    def runs(self) -> None:
        """They run; told every few seconds."""

    def lost(self, error: Exception, *, was_announced: bool) -> None:
        """Workers failed, and all are about to be replaced.

        Args:
          was_announced: their node was drained: it was known that it would go.
        """

    def waits(self, error: Exception) -> None:
        """Workers could not be started, and that is tried again."""


class Watch(ControllerCallback, WorkerGroupCallback):
    """Has Ray Train's controller tell the watcher; goes into `RunConfig.callbacks`.

    Args:
      environment: of the controller, where it is not set already.
    """

    def __init__(self, watcher: Watcher, environment: Mapping[str, str]) -> None:
        self._watcher, self._environment = watcher, dict(environment)

    def after_controller_start(self, train_run_context: object) -> None:
        """Sets the environment; what is in it is read when workers start."""
        os.environ |= self._environment | os.environ

    def before_controller_execute_resize_decision(self, resize_decision: Any) -> None:
        """Puts the start of workers off, as Ray Train does if it finds no places for them."""
        if not self._watcher.finds_room():
            raise WorkerGroupStartupTimeoutError(resize_decision.num_workers)

    def after_worker_group_poll_status(self, worker_group_status: object) -> None:
        """Tells that workers run."""
        self._watcher.runs()

    def after_controller_state_update(self, previous_state: object, current_state: object) -> None:
        """Tells of workers that began, were lost, or cannot begin."""
        if isinstance(current_state, RunningState) and not isinstance(previous_state, RunningState):
            self._watcher.began()
        elif isinstance(current_state, RestartingState):
            error = current_state.training_failed_error
            self._watcher.lost(error, was_announced=_is_preemption_failure(error))
        elif isinstance(current_state, ReschedulingState):
            self._watcher.waits(current_state.training_failed_error)


def is_drained() -> bool:
    """Whether this Ray Train worker was told that a node of its run will be taken away.

    `ray.train.get_preemption_info` says the same, but makes all workers wait for each other.
    """
    return get_train_context().preemption_context.preemption_info is not None


def has_autoscaler() -> bool:
    """Whether the joined cluster has an autoscaler, which may bring more nodes."""
    if not _internal_kv_initialized():
        return False
    if is_autoscaler_v2():
        return True
    status = json.loads(_internal_kv_get(ray_constants.DEBUG_AUTOSCALING_STATUS) or "{}")
    kinds = status.get("autoscaler_report", {}).get("node_type_mapping") or {}
    return any(not kind.startswith("node_") for kind in kinds.values())  # else each is its own


class ClusterPolicy(ScalingPolicy):
    """Ray Train's workers are as many as the cluster has room for, within the config's range.

    Ray's own elastic policy would leave no CPU for reading data, count nodes that have gone, spin
    while there are too few, and interrupt a growing group at any time.

    A start waits for the fewest. If what it counted on is taken by others, the start fails, and the
    next one tries about half as many more than the fewest; the group does not grow then until a
    node comes or goes.

    Args:
      spare_cpus: logical CPUs of the cluster that workers leave free.
      grow_after_s: seconds that a group trains, at least, before a larger one takes its place.
      last_step: what the run's last checkpoint is reported with as `step`; it ends then.
    """

    def __init__(
        self, scaling_config: Any, *, spare_cpus: float, grow_after_s: float, last_step: int
    ) -> None:
        super().__init__(scaling_config)
        self._spare_cpus, self._grow_after_s = spare_cpus, grow_after_s
        self._last_step = last_step
        self._starting: int | None = None
        self._refused_by: frozenset[str] = frozenset()

    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        """As many as fit, or as few as may be, for which Ray Train then waits."""
        self._maybe_send_resource_request()  # type: ignore[no-untyped-call]
        fewest, nodes = self.scaling_config.min_workers, _nodes()
        room = self._room(nodes)
        if self._starting is not None:
            self._refused_by = frozenset(nodes)
            room = min(room, fewest + (self._starting - fewest) // 2)
        return self._resize(max(fewest, room))

    def make_decision_for_running_worker_group(
        self, worker_group_state: Any, worker_group_status: Any
    ) -> ScalingDecision:
        """More workers, if there is room, once a checkpoint has been kept; else no other number."""
        self._maybe_send_resource_request()  # type: ignore[no-untyped-call]
        age_s = time.monotonic() - worker_group_state.start_time
        if not self._has_kept(worker_group_status) or age_s < self._grow_after_s:
            return NoopDecision()
        nodes = _nodes()
        room = 0 if self._refused_by == frozenset(nodes) else self._room(nodes)
        return self._resize(room) if room > worker_group_state.num_workers else NoopDecision()

    def _has_kept(self, status: Any) -> bool:
        """Whether a checkpoint was kept since the last look, and all workers train on."""
        workers = status.worker_statuses.values()
        reports = [worker.training_report for worker in workers if worker.training_report]
        return all(worker.running for worker in workers) and any(
            report.checkpoint is not None and report.metrics["step"] < self._last_step
            for report in reports
        )

    def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
        """Learns that a start has come about."""
        if isinstance(current_state, RunningState):
            self._starting = None

    def _get_num_workers_for_resource_request(self) -> int:
        return int(self.scaling_config.max_workers)

    def _resize(self, workers: int) -> ResizeDecision:
        self._starting = workers
        return ResizeDecision(workers, self.scaling_config._resources_per_worker_not_none)

    def _room(self, nodes: dict[str, dict[str, float]]) -> int:
        """How many workers fit onto these nodes besides other runs; 0 if Ray does not say."""
        try:
            ours = ray.get(
                self._autoscaling_coordinator.get_reserved_resources.remote(
                    self._requester_id, recompute=True
                ),
                timeout=_TOLD_WITHIN_S,
            )
        except RayError:
            return 0
        each = {k: v for k, v in self.scaling_config._resources_per_worker_not_none.items() if v}
        fit = sum(_times(each, ours[node]) for node in nodes if node in ours)
        if "CPU" in each:
            cpus = sum(resources.get("CPU", 0.0) for resources in nodes.values())
            fit = min(fit, _times({"CPU": each["CPU"]}, {"CPU": cpus - self._spare_cpus}))
        return min(fit, self.scaling_config.max_workers)


def _nodes() -> dict[str, dict[str, float]]:
    """What each node has that is there and will stay, by the node's id.

    Ray takes a while to declare a lost node dead. Until then a start that counts on it would wait
    a minute in vain.
    """
    leaving = state.state.get_draining_nodes()
    told = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in leaving]
    with ThreadPoolExecutor(max(1, len(told)), "nodes") as pool:
        found = zip(told, pool.map(_answers, told), strict=True)
        return {node["NodeID"]: node["Resources"] for node, answers in found if answers}


def _answers(node: dict[str, Any]) -> bool:
    """Whether the node's raylet takes a connection."""
    place = (node["NodeManagerAddress"], node["NodeManagerPort"])
    with suppress(OSError), socket.create_connection(place, timeout=_ANSWERED_S):
        return True
    return False


def _times(each: dict[str, float], resources: dict[str, float]) -> int:
    """How often the resources hold `each`, which may be fractions."""
    return min(int(resources.get(name, 0.0) / want + 1e-6) for name, want in each.items())


def scale_by(trainer: Any, policy: ScalingPolicy) -> None:
    """Has a trainer of Ray Train size its group of workers by this policy, and not Ray's own."""
    start = trainer._initialize_and_run_controller

    def start_with_policy(**parts: Any) -> Any:
        return start(**parts | {"scaling_policy": policy})

    trainer._initialize_and_run_controller = start_with_policy
