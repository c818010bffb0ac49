"""Arrays of a run that become pictures: one file a snapshot, in the run's folder."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PROBES = "probes"
"""Name of the folder of snapshots in a run's folder."""

Arrays = Mapping[str, NDArray[np.float32]]


def write_snapshot(run_folder: Path, step: int, arrays: Arrays) -> None:
    """Writes what the arrays were after `step` steps, whole or not at all, without pickle."""
    file = _file(run_folder, step)
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_suffix(".new")
    with fresh.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]  # the stub wants `allow_pickle`
    fresh.replace(file)


def read_snapshots(run_folder: Path) -> dict[int, Arrays]:
    """Arrays by name, by step, ordered by step; none if there are none."""
    snapshots: dict[int, Arrays] = {}
    for file in sorted((run_folder / PROBES).glob("step-*.npz")):
        with np.load(file, allow_pickle=False) as opened:
            snapshots[int(file.stem.removeprefix("step-"))] = dict(opened)
    return snapshots


def _file(run_folder: Path, step: int) -> Path:
    return run_folder / PROBES / f"step-{step:09d}.npz"
