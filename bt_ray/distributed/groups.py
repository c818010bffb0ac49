"""The workers as groups: what is sent in one group does not queue behind what another sends."""

import torch
import torch.distributed as dist

_made: dict[dist.ProcessGroup | None, dist.ProcessGroup] = {}


def statistics_group() -> dist.ProcessGroup | None:
    """All workers, for what batch norm exchanges; None: the default group.

    A NCCL communicator carries out its operations in order. On the default one, batch norm's small
    sums in backward would wait behind the gradients of the layers above, 604 MB of the paper's
    projector; so with NCCL they get one of their own, on a stream of high priority. It is made by
    all workers together, at its first use.
    """
    if not dist.is_initialized() or not wants_own_communicator():
        return None
    world = dist.group.WORLD
    if world not in _made:
        _made.clear()  # of a default group that is gone
        _made[world] = _new_group()
    return _made[world]


def wants_own_communicator() -> bool:
    """Whether operations of one group wait for each other: with NCCL, and where there are some."""
    return dist.get_backend() == "nccl" and dist.get_world_size() > 1


def _new_group() -> dist.ProcessGroup:
    """Its time-out is the default group's: a worker that all wait for may be waited for here."""
    is_nccl = dist.get_backend() == "nccl"
    world = dist.group.WORLD
    assert world is not None
    waits = world._get_backend(torch.device("cuda" if is_nccl else "cpu")).options._timeout
    options = dist.ProcessGroupNCCL.Options(is_high_priority_stream=True) if is_nccl else None
    group = dist.new_group(timeout=waits, pg_options=options)
    assert isinstance(group, dist.ProcessGroup)  # every worker is a member
    return group
