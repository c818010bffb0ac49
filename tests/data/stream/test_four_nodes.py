"""Four nodes with small object stores, a slow storage: steady, and nothing read far ahead."""

import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.ray_nodes import ray_head, ray_node
from bt_ray.config import Settings, override
from bt_ray.cpu.count import available_cpus
from bt_ray.data.stream.decode import Columns
from tests.data.shards.test_far_storage import write_noise

pytestmark = pytest.mark.cluster

_READERS, _READ_S, _WINDOWS, _STEPS = 4, 0.8, 56, 4
"""A window is four steps of 16 images of 128 kB: 8 MB, so that the run's are 448 MB."""
_STORE_MB, _TRAIN_S = 80, 0.2
_STEADY, _TRIES = 0.7, 3
"""Share of the readers' rate that is never fallen below; other programs may spoil a try."""


def _train(address: str, settings: Settings, log: Path, stop: int) -> list[tuple[int, float]]:
    """Takes steps as they come, then at leisure: each step, and when it was there."""
    import ray

    from benchmarks.consumers import without_views
    from bt_ray.data.stream import ingest

    def note(what: str, step: object) -> None:
        with log.open("a") as file:
            file.write(f"{what} {step} {time.time()}\n")

    class SlowReader(ingest.Reader):
        def __call__(self, chunk: pa.Table) -> Iterator[pa.Table]:
            note("read", chunk["start"][0])
            time.sleep(_READ_S)
            yield from super().__call__(chunk)

    def decode(table: pa.Table, *_: object) -> Columns:
        note("decode", table["step"][0])
        return without_views(table)

    ingest.Reader = SlowReader  # type: ignore[misc]
    ingest.num_readers = lambda *_: _READERS
    ingest.steps_of_a_row = lambda _: 1
    ray.init(address=address, log_to_driver=False)
    try:
        ray.data.DataContext.get_current().execution_options.preserve_order = True
        data = ingest.build_dataset(settings, start=0, stop=stop, make=decode)
        [part] = data.streaming_split(1, equal=True)
        taken = []
        for columns in ingest.worker_blocks(part):
            step = int(columns["step"][0])
            taken.append((step, time.time()))
            time.sleep(_TRAIN_S if step > stop * 3 // 4 else 0)
        return taken
    finally:
        ray.shutdown()


@pytest.mark.slow
def test_four_nodes_read_steadily_and_spill_nothing(
    small_settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "noise").mkdir()
    write_noise(tmp_path / "noise")
    settings = override(
        small_settings,
        {"data.train": str(tmp_path / "noise"), "data.global_batch": 16, "data.window_mb": 8,
         "schedule.epochs": 8, "scaling.workers": 1},
    )  # fmt: skip
    stop = _STEPS * _WINDOWS
    spawn = multiprocessing.get_context("spawn")
    lowest = []
    is_quiet = os.getloadavg()[0] < 2 * available_cpus()  # else others take what is measured
    with ray_head(1, store_mb=_STORE_MB) as head, ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(ray_node(head, 1, store_mb=_STORE_MB))
        for number in range(_TRIES):
            log = tmp_path / f"log-{number}"
            pool = stack.enter_context(ProcessPoolExecutor(1, mp_context=spawn))
            taken = pool.submit(_train, head.address, settings, log, stop).result(timeout=250)
            assert [step for step, _ in taken] == list(range(stop))
            _check_ahead(log)
            lowest.append(_lowest_rate([when for _, when in taken], stop))
            if lowest[-1] >= _STEADY or not is_quiet:
                break
        raylets = sorted((head.temp / "session_latest" / "logs").glob("raylet*.out"))
        spilled = [file.name for file in raylets if "Spilled" in file.read_text()]
    assert len(raylets) == 4
    assert spilled == []
    if is_quiet:
        assert max(lowest) >= _STEADY


def _check_ahead(log: Path) -> None:
    """Windows that were read before their turn: as many as there are readers, and one."""
    events = [line.split() for line in log.read_text().splitlines()]
    read, decoded = (
        np.sort([float(w) for what, step, w in events if what == name and not int(step) % _STEPS])
        for name in ("read", "decode")
    )
    assert len(read) == len(decoded) == _WINDOWS
    ahead = np.arange(1, _WINDOWS + 1) - np.searchsorted(decoded, read)
    assert np.median(ahead) <= _READERS + 1
    assert ahead.max() <= 2 * _READERS  # a busy machine starts a decode later than it is due


def _lowest_rate(when: list[float], stop: int) -> float:
    """Of the two seconds with the fewest steps, as a share of what the readers can do."""
    quick = np.array(when)[2 * _STEPS * _READERS : stop * 3 // 4]
    edges = np.arange(quick[0], quick[-1] - 2, 0.25)
    steps = np.searchsorted(quick, edges + 2) - np.searchsorted(quick, edges)
    return float(steps.min() * _READ_S / (2 * _STEPS * _READERS))
