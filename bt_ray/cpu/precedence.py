"""Who gets a core first: workers that train, then all that Ray runs beside them.

Ray's processes wake up some thousand times a second, each for a moment, and Linux lets who has
just woken up take the core from who has had it for a while: from a worker in mid-step, whose
caches are then cold. Processes of the policy SCHED_BATCH wait for their turn instead, of which
they get as much as before. Policies are inherited, and need no rights.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def waiting_their_turn() -> Iterator[None]:
    """Processes that are started meanwhile, and theirs, take no core from who is computing."""
    if not hasattr(os, "SCHED_BATCH"):  # elsewhere than on Linux
        yield
        return
    before, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    try:
        yield
    finally:
        os.sched_setscheduler(0, before, parameters)


def take_precedence() -> None:
    """All threads of this process, and those to come, are scheduled as usual again."""
    if not hasattr(os, "SCHED_BATCH"):
        return
    for thread in Path("/proc/self/task").iterdir():
        with suppress(ProcessLookupError):  # it has ended meanwhile
            if os.sched_getscheduler(int(thread.name)) == os.SCHED_BATCH:
                os.sched_setscheduler(int(thread.name), os.SCHED_OTHER, os.sched_param(0))
