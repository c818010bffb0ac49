"""The loop's context in a Ray Train worker, as far as it needs no cluster."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bt_ray.errors import DataError
from bt_ray.tracking.snapshots import read_snapshots
from bt_ray.tracking.tracker import NullTracker
from bt_ray.training.worker import RayContext, begin


def test_of_all_workers_the_first_writes_the_arrays(tmp_path: Path) -> None:
    """Each brings an array of its own here, so that the file says whose it is."""
    for rank in (0, 1, 2):
        context = RayContext(rank, torch.device("cpu"), NullTracker(), tmp_path, "")
        context.keep(0, {"eigenvalues": np.full(3, rank, np.float32)})
    assert (read_snapshots(tmp_path)[0]["eigenvalues"] == 0).all()


def test_the_first_batch_is_fetched_before_it_is_wanted() -> None:
    """And comes first, once; no other is fetched ahead."""
    fetched = list[int]()
    is_first = threading.Event()

    def batches() -> Iterator[Any]:
        for number in range(3):
            fetched.append(number)
            is_first.set()
            yield number

    begun = begin(batches())
    assert is_first.wait(10)
    assert fetched == [0]
    assert list(begun) == [0, 1, 2]
    assert list(begin(iter([]))) == []


def test_what_goes_wrong_with_the_first_batch_is_told_to_who_wants_it() -> None:
    def batches() -> Iterator[Any]:
        raise DataError("A shard is damaged.")
        yield

    with pytest.raises(DataError, match="damaged"):
        next(begin(batches()))
