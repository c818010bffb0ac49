"""What is used of Ray's private parts, all of it here; checked with Ray 2.60.

`tests/test_ray_internals.py` fails when another version has moved them. Without them a run comes to
the same result, more slowly.
"""

import time
from dataclasses import dataclass
from typing import Any

from ray._private import services
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
