"""Decoders stay, whatever a cluster that was started elsewhere does with idle processes."""

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor

import psutil
import pytest

from benchmarks.ray_nodes import ray_head
from bt_ray.config import Settings, override

pytestmark = pytest.mark.cluster

_STEP_S, _STEPS, _STARTING = 3.0, 12, 4


def _train(address: str, head: int, settings: Settings, starting: int, steps: int) -> set[str]:
    """Trains at leisure; the processes that were started after the first steps."""
    import ray

    from bt_ray.data.stream import ingest

    ingest.steps_of_a_row = lambda _: 1  # as many tasks as can be
    ray.init(address=address, log_to_driver=False)
    try:
        family = psutil.Process(head).children(recursive=True)
        [raylet] = [process for process in family if process.name() == "raylet"]
        ray.data.DataContext.get_current().execution_options.preserve_order = True
        [part] = ingest.build_dataset(settings, start=0, stop=steps).streaming_split(1, equal=True)
        known, late = set[int](), set[str]()
        for step, _ in enumerate(ingest.worker_blocks(part)):
            ends = time.monotonic() + _STEP_S
            while time.monotonic() < ends:
                for child in raylet.children():
                    if child.pid not in known and step >= starting:
                        late.add(" ".join(child.cmdline())[:200])
                    known.add(child.pid)
                time.sleep(0.1)
        return late
    finally:
        ray.shutdown()


def test_no_process_is_started_once_training_is_under_way(small_settings: Settings) -> None:
    """Ray's default is to end a process that has been idle for a second."""
    settings = override(small_settings, {"schedule.epochs": _STEPS})
    spawn = multiprocessing.get_context("spawn")
    with ray_head() as head, ProcessPoolExecutor(1, mp_context=spawn) as pool:
        work = pool.submit(_train, head.address, head.pid, settings, _STARTING, _STEPS)
        late = work.result(timeout=250)
    assert late == set()
