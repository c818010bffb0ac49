"""The loop's context in a Ray Train worker, as far as it needs no cluster."""

from pathlib import Path

import numpy as np
import torch

from bt_ray.tracking.snapshots import read_snapshots
from bt_ray.tracking.tracker import NullTracker
from bt_ray.training.worker import RayContext


def test_of_all_workers_the_first_writes_the_arrays(tmp_path: Path) -> None:
    """Each brings an array of its own here, so that the file says whose it is."""
    for rank in (0, 1, 2):
        context = RayContext(rank, torch.device("cpu"), NullTracker(), tmp_path, "")
        context.keep(0, {"eigenvalues": np.full(3, rank, np.float32)})
    assert (read_snapshots(tmp_path)[0]["eigenvalues"] == 0).all()
