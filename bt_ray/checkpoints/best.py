"""The checkpoint of a run's best probe: a copy of its own, which the newer ones do not push out.

It lies in the folder `best` of the run's, and says itself what probe it is of.
"""

import json
from pathlib import Path
from typing import Literal

from bt_ray.checkpoints.checkpoint import find_checkpoint
from bt_ray.checkpoints.draft import STATE
from bt_ray.checkpoints.manifest import MANIFEST, Manifest
from bt_ray.checkpoints.state import Best
from bt_ray.errors import CheckpointError
from bt_ray.storage.names import name_of
from bt_ray.storage.store import Store
from bt_ray.storage.working_copy import BEST, CHECKPOINT

Which = Literal["last", "best"]
"""Of a run's checkpoints: the last one, or that with the best score."""


def keep_if_best(run: Store, folder: Path) -> None:
    """Copies a checkpoint to its run's best one, in whose place it comes, if it is that.

    Args:
      run: the run's folder.
      folder: where the checkpoint was written just now.
    Raises: StorageError.
    """
    record = json.loads((folder / STATE).read_bytes())
    if _best_in(record) is None or record["best"]["step"] != record["step"]:
        return
    name, kept = f"{CHECKPOINT}{record['step']:09d}", run.below(BEST)
    if f"{name}/{MANIFEST}" in (before := kept.sizes()):  # of the same step, made again
        kept.remove(f"{name}/{MANIFEST}")
    kept.below(name).upload(folder, last=MANIFEST)
    others = [file for file in before if not file.startswith(f"{name}/")]
    for file in sorted(others, key=lambda file: not file.endswith(MANIFEST)):
        kept.remove(file)


def best_checkpoint(run_folder: Path) -> tuple[Path, Best] | None:
    """A run's best checkpoint and what it is the best by; none if none was kept.

    Raises: CheckpointError if it is damaged; RunFailedError if the storage fails.
    """
    found = find_checkpoint(run_folder / BEST)
    if found is None:
        return None
    best = _best_in(json.loads(Manifest.read(found).content(STATE)))
    if best is None:
        raise CheckpointError(f"Checkpoint {found} does not say what it is the best by.")
    return found, best


def require_best(run_folder: Path) -> Path:
    """A run's best checkpoint. Raises: CheckpointError if there is none, or it is damaged."""
    found = best_checkpoint(run_folder)
    if found is None:
        raise CheckpointError(
            f"The run in {name_of(run_folder)} has kept no best checkpoint: train it with "
            "--training.keep-best, or take its last one."
        )
    return found[0]


def _best_in(record: dict[str, object]) -> Best | None:
    told = record.get("best")
    return Best(**told) if isinstance(told, dict) else None
