"""What is used of Ray's private parts, all of it here; checked with Ray 2.60.

`tests/test_ray_internals.py` fails when another version has moved them. Without them a run comes to
the same result, more slowly.
"""

import time

from ray.data import DataContext
from ray.data._internal.execution import streaming_executor_state
from ray.data._internal.execution.execution_callback import ExecutionCallback

_LONGEST_WAIT_S = 0.02
_IDLE_STEP_S, _PAUSE_S = 0.01, 0.05


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
