"""What the workers of a run continue from: one of them looks, and all of them hear."""

from pathlib import Path

import torch
import torch.distributed as dist

from bt_ray.checkpoints.checkpoint import MANIFEST, newest_checkpoint, verify_checkpoint
from bt_ray.distributed.collectives import rank, world_size
from bt_ray.errors import CheckpointError

_REJECTED = "manifest-rejected.json"


def agree_on_checkpoint(run_folder: Path, device: torch.device) -> tuple[Path | None, int]:
    """The newest checkpoint of a run and its steps, verified by the first worker for all.

    The data that the workers get begin where `newest_checkpoint` said, when they were started. So a
    checkpoint that proves to be damaged is not passed over here: it loses its manifest, and the
    workers' next start finds the one before it, and so do the data.

    Returns: (None, 0) without any.
    Raises: on every worker, CheckpointError if it is damaged, or NewerSchemaError.
    """
    found: list[tuple[Path | None, int] | CheckpointError] = [(None, 0)]
    if rank() == 0:
        found = [_verified(run_folder)]
    if world_size() > 1:
        dist.broadcast_object_list(found, src=0, device=device)
    [answer] = found
    if isinstance(answer, CheckpointError):
        raise answer
    return answer


def _verified(run_folder: Path) -> tuple[Path | None, int] | CheckpointError:
    """The newest checkpoint, if all its checksums hold, or what to raise on every worker."""
    try:
        folder, step = newest_checkpoint(run_folder)
    except CheckpointError as error:
        return error
    if folder is None:
        return None, 0
    try:
        verify_checkpoint(folder)
    except CheckpointError as error:
        (folder / MANIFEST).rename(folder / _REJECTED)
        return error
    return folder, step
