"""What the workers of a run continue from: one of them looks, and all of them hear."""

from pathlib import Path

import torch
import torch.distributed as dist

from bt_ray.checkpoints.checkpoint import newest_checkpoint, verify_checkpoint
from bt_ray.checkpoints.stored import bring_manifests, set_aside
from bt_ray.distributed.collectives import rank, world_size
from bt_ray.errors import CheckpointError, RunFailedError, StorageError
from bt_ray.storage.working_copy import origin_of

Found = tuple[Path | None, int] | CheckpointError | RunFailedError


def agree_on_checkpoint(run_folder: Path, device: torch.device) -> tuple[Path | None, int]:
    """The newest checkpoint of a run and its steps, verified by the first worker for all.

    The data that the workers get begin where `newest_checkpoint` said, when they were started. So a
    checkpoint that proves to be damaged is not passed over here: it loses its manifest, and the
    workers' next start finds the one before it, and so do the data.

    Args:
      run_folder: of this machine; where the storage is far, each has a copy of its own.
    Returns: (None, 0) without any.
    Raises: on every worker, CheckpointError if it is damaged, NewerSchemaError, or RunFailedError
      if the storage fails.
    """
    found: list[Found] = [(None, 0)]
    if rank() == 0:
        found = [_verified(run_folder)]
    if world_size() > 1:
        dist.broadcast_object_list(found, src=0, device=device)
    [answer] = found
    if isinstance(answer, CheckpointError | RunFailedError):
        raise answer
    place, step = answer
    if place is not None and rank() != 0 and origin_of(run_folder) is not None:
        bring_manifests(run_folder)
    return None if place is None else run_folder / place, step


def _verified(run_folder: Path) -> Found:
    """The newest checkpoint, if all its checksums hold, or what to raise on every worker.

    Its place is relative to the run's folder.
    """
    try:
        folder, step = newest_checkpoint(run_folder)
        if folder is not None:
            return _verified_or_set_aside(folder).relative_to(run_folder), step
    except (CheckpointError, RunFailedError) as error:
        return error
    return None, 0


def _verified_or_set_aside(folder: Path) -> Path:
    try:
        verify_checkpoint(folder)
    except CheckpointError as error:
        try:
            set_aside(folder)
        except (OSError, StorageError) as refusal:
            reason = getattr(refusal, "strerror", None) or refusal
            raise CheckpointError(
                f"{error} It cannot be set aside ({reason}): remove it, and the same "
                "command continues the run from the checkpoint before."
            ) from error
        raise
    return folder
