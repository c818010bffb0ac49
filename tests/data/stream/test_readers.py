"""Chunks are read by many at once, in order, and not far ahead of who wants them."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray.data

from bt_ray.config import Settings, override
from bt_ray.data.stream import ingest
from bt_ray.data.stream.decode import Columns, make_views
from bt_ray.data.stream.ingest import build_dataset, worker_blocks

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]

_READERS, _STEPS, _READ_S, _DECODE_S = 3, 24, 0.3, 0.1


@pytest.fixture(autouse=True)
def _in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    options = ray.data.DataContext.get_current().execution_options
    monkeypatch.setattr(options, "preserve_order", True)


def lines_of(file: Path) -> list[list[str]]:
    return [line.split() for line in file.read_text().splitlines()]


def test_many_read_at_once_and_nothing_is_hoarded(
    small_settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A chunk a step; each takes longer to read than to decode, and training takes longest."""
    log = tmp_path / "log"

    def note(*what: object) -> None:
        with log.open("a") as file:
            file.write(" ".join(map(str, what)) + "\n")

    class SlowReader(ingest.Reader):
        def __call__(self, chunk: pa.Table) -> Iterator[pa.Table]:
            note("read", chunk["start"][0], time.time())
            time.sleep(_READ_S)
            rows = list(super().__call__(chunk))
            note("held", chunk["start"][0], time.time())
            yield from rows

    def slow_views(table: pa.Table, *arguments: Any) -> Columns:
        note("decode", table["step"][0], time.time())
        time.sleep(_DECODE_S)
        return make_views(table, *arguments)

    monkeypatch.setattr(ingest, "Reader", SlowReader)
    monkeypatch.setattr(ingest, "num_readers", lambda *_: _READERS)
    monkeypatch.setattr(ingest, "steps_of_a_row", lambda _: 1)
    settings = override(small_settings, {"data.window_mb": 1, "schedule.epochs": 12})
    dataset = build_dataset(settings, start=0, stop=_STEPS, most_decoders=1, make=slow_views)
    [part] = dataset.streaming_split(1, equal=True)
    for number, columns in enumerate(worker_blocks(part)):
        assert int(columns["step"][0]) == number
        note("train", number, time.time())
        time.sleep(0.4 if number < _STEPS // 2 else 0)
    events = [(what, int(step), float(when)) for what, step, when in lines_of(log)]
    events.sort(key=lambda event: event[2])
    held = reading = most_held = most_reading = ahead = most_ahead = 0
    for what, *_ in events:
        held += {"read": 1, "decode": -1}.get(what, 0)
        reading += {"read": 1, "held": -1}.get(what, 0)
        ahead += {"decode": 1, "train": -1}.get(what, 0)
        most_held, most_reading = max(most_held, held), max(most_reading, reading)
        most_ahead = max(most_ahead, ahead)
    assert most_reading == _READERS
    assert most_held <= _READERS + 2, "one waits for the decoder, one beside it"
    assert most_ahead <= 8


def test_one_reader_names_its_chunks_itself(small_settings: Settings) -> None:
    """A process more to start would delay the first batch of every small run."""
    dataset = build_dataset(small_settings, start=0, stop=6)
    assert sum(len(rows["step"]) for rows in dataset.iter_batches(batch_size=1)) >= 1
    assert "ReadPlanSource->MapBatches(Reader)" in dataset.stats()
