"""What is used of Ray's private parts, all of it here; checked with Ray 2.60.

`tests/test_ray_internals.py` fails when another version has moved them. Without those of Ray Data a
run comes to the same result, more slowly; those of Ray Train tell what becomes of its workers.
"""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ray._private import ray_constants, services
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
from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_initialized
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback
from ray.train.v2._internal.execution.context import get_train_context
from ray.train.v2._internal.execution.controller.state import (
    ReschedulingState,
    RestartingState,
    RunningState,
)
from ray.train.v2._internal.execution.failure_handling.default import _is_preemption_failure
from ray.util.metrics import Gauge

_LONGEST_WAIT_S = 0.02
_IDLE_STEP_S, _PAUSE_S = 0.01, 0.05
_TOLD_S = 1.0
"""Ray exports a gauge only while it is set every few seconds."""

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
