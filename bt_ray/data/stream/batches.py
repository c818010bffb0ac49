"""A worker's batches as tensors: from Ray Data's blocks, or read in this process."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bt_ray.config import Settings
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.stream.decode import VIEWS, draw_pair, make_views, read_steps
from bt_ray.data.stream.plan import build_plan
from bt_ray.data.stream.spares import find_spares
from bt_ray.data.views.photometry import apply_photometry
from bt_ray.errors import PlanError


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One worker's part of a global batch: its views, two or one, before normalisation."""

    step: int
    views: tuple[Tensor, ...]
    """Tensors (n, 3, px, px), uint8, or float32 levels 0 to 255 after photometry."""
    samples: NDArray[np.int64]
    """Rows of the data set whose images were used, (n,)."""
    digest: int = 0
    """Sum over the rows, modulo 2⁶⁴, of what tells how they were made (`stream.digest`)."""
    replaced: tuple[int, ...] = ()
    """Rows whose image could not be decoded; another stands in for each (`stream.spares`)."""


def to_batch(
    columns: Mapping[str, NDArray[Any]],
    settings: Settings,
    steps_per_epoch: int,
    device: torch.device,
) -> Batch:
    """The columns of `make_views` as tensors on the device, with photometry if it belongs there."""
    step = int(columns["step"][0])
    views = tuple(
        torch.from_numpy(np.array(columns[name])).to(device)
        for name in VIEWS[: settings.views.count]
    )
    if settings.views.photometry == "device":
        views = tuple(
            apply_photometry(view, parameters, settings.views.solarize_threshold)
            for view, parameters in zip(
                views, draw_pair(columns, settings, steps_per_epoch), strict=True
            )
        )
    return Batch(
        step=step,
        views=views,
        samples=columns["sample"],
        digest=int(np.sum(columns["digest"], dtype=np.uint64)),
        replaced=tuple(columns["row"][columns["row"] != columns["sample"]].tolist()),
    )


def check_place(columns: Mapping[str, NDArray[Any]], step: int, rank: int, num_rows: int) -> None:
    """Raises PlanError unless these are exactly the rows that the plan gives this worker now."""
    steps, slots = columns["step"], columns["slot"]
    first = rank * num_rows
    if not (
        len(steps) == num_rows
        and (steps == step).all()
        and np.array_equal(slots, np.arange(first, first + num_rows))
    ):
        raise PlanError(
            f"Worker {rank} expected slots {first} to {first + num_rows - 1} of step {step} and "
            f"got {len(slots)} rows from slot {slots[0]} of step {steps[0]}."
        )


def stream_batches(
    blocks: Iterable[Mapping[str, NDArray[Any]]],
    settings: Settings,
    *,
    start: int,
    rank: int,
    world_size: int,
    steps_per_epoch: int,
    device: torch.device,
) -> Iterator[Batch]:
    """This worker's batches from step `start` on, made of the blocks that were streamed to it.

    Raises: PlanError if a block holds other rows than the plan's.
    """
    num_rows = settings.data.global_batch // world_size
    for step, columns in enumerate(blocks, start=start):
        check_place(columns, step, rank, num_rows)
        yield to_batch(columns, settings, steps_per_epoch, device)


def local_batches(
    settings: Settings,
    shards: ShardSet,
    *,
    start: int,
    stop: int,
    device: torch.device,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[Batch]:
    """The batches of steps `start` to `stop`, read and decoded in this process."""
    plan = build_plan(settings, shards.manifest)
    size = settings.data.global_batch // world_size
    spares = partial(find_spares, shards, plan)
    for span in plan.spans(start, stop):
        table = read_steps(shards, plan, max(start, span.first_step), min(stop, span.stop_step))
        for first in range(rank * size, table.num_rows, plan.global_batch):
            part = table.slice(first, size)
            columns = make_views(part, settings, plan.steps_per_epoch, spares)
            yield to_batch(columns, settings, plan.steps_per_epoch, device)
