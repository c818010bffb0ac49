"""Memory that is kept, in a process of its own: it is decided when a process starts."""

import os
import subprocess
import sys

import pytest

from bt_ray.cpu.allocator import KEEP_FREED_MEMORY

PAGES_OF_A_STEP = 60 * 2**20 // 4096
CHILD = """
import resource, threading, torch

def steps():
    for _ in range(8):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        activations = [torch.ones(megabytes, 2**18) for megabytes in (40, 3, 17)]
        del activations
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

thread = threading.Thread(target=steps)  # a Ray Train worker's loop is not in the main one
thread.start()
thread.join()
"""


def _new_pages(environment: dict[str, str]) -> int:
    ended = subprocess.run(
        [sys.executable, "-c", CHILD],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(ended.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="settings of glibc")
def test_a_later_step_takes_no_new_pages() -> None:
    assert _new_pages({}) > PAGES_OF_A_STEP / 2
    assert _new_pages(KEEP_FREED_MEMORY) < PAGES_OF_A_STEP / 20
