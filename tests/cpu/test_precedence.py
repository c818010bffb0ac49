"""Scheduling policies: what is started beside training waits for its turn, training does not."""

import json
import os
import subprocess
import sys

import pytest

from bt_ray.cpu.precedence import waiting_their_turn

pytestmark = pytest.mark.skipif(
    not hasattr(os, "SCHED_BATCH"), reason="only Linux has the policy SCHED_BATCH"
)

_WORKER = """
import json, os, threading
from bt_ray.cpu.precedence import take_precedence
def policies():
    return sorted(os.sched_getscheduler(int(thread)) for thread in os.listdir("/proc/self/task"))
done = threading.Event()
threading.Thread(target=done.wait).start()
inherited = policies()
take_precedence()
threading.Thread(target=done.wait).start()
print(json.dumps([inherited, policies()]))
done.set()
"""


def test_all_threads_of_a_worker_are_scheduled_as_usual_again() -> None:
    """Those it has, those it will have; what it started under is told by the first list."""
    with waiting_their_turn():
        told = subprocess.run(
            [sys.executable, "-c", _WORKER], check=True, capture_output=True, text=True
        ).stdout
    inherited, taken = json.loads(told)
    assert inherited == [os.SCHED_BATCH] * 2
    assert taken == [os.SCHED_OTHER] * 3


def test_this_process_keeps_its_policy() -> None:
    before = os.sched_getscheduler(0)
    with waiting_their_turn():
        assert os.sched_getscheduler(0) == os.SCHED_BATCH
    assert os.sched_getscheduler(0) == before
    with pytest.raises(OSError, match="address in use"), waiting_their_turn():
        raise OSError("address in use")
    assert os.sched_getscheduler(0) == before
