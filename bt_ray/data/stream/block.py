"""A worker's part of one step: on the host, and as tensors on the device that trains."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bt_ray.config import Settings
from bt_ray.data.stream.decode import VIEWS, draw_pair
from bt_ray.data.views.photometry import apply_photometry, tabulate
from bt_ray.data.views.photometry.table import Table


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One worker's part of a global batch: its views, two or one, before normalisation."""

    step: int
    views: tuple[Tensor, ...]
    """Tensors (n, c, px, px), levels as uint8 or uint16."""
    small: Tensor | None = None
    """Smaller views, (n, s, c, px, px), their px; none if there are none (`views.small_count`)."""
    samples: NDArray[np.int64]
    """Rows of the data set whose images were used, (n,)."""
    digest: int = 0
    """Sum over the rows, modulo 2⁶⁴, of what tells how they were made (`stream.digest`)."""
    replaced: tuple[int, ...] = ()
    """Rows whose image could not be decoded; another stands in for each (`stream.spares`)."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """What a batch is made of, on the host."""

    columns: Mapping[str, NDArray[Any]]
    """Those of `decode.make_views`."""
    views: tuple[NDArray[np.uint8 | np.uint16], ...]
    """The views' levels, (n, c, px, px) each."""
    table: Table | None
    """The photometry of all views, one view after the other, (views · n, NUM_COLUMNS); none where
    the loader has done it."""

    def batch(self, views: tuple[Tensor, ...]) -> Batch:
        """The batch of these finished views."""
        columns = self.columns
        return Batch(
            step=int(columns["step"][0]),
            views=views,
            samples=columns["sample"],
            digest=int(np.sum(columns["digest"], dtype=np.uint64)),
            replaced=tuple(columns["row"][columns["row"] != columns["sample"]].tolist()),
        )


def to_block(
    columns: Mapping[str, NDArray[Any]], settings: Settings, steps_per_epoch: int
) -> Block:
    """The columns of `make_views`, with what photometry they still want."""
    table = None
    if settings.views.photometry == "device":
        tables = [
            tabulate(
                parameters,
                settings.views.solarize_threshold,
                channels=settings.data.channels,
                highest_level=settings.data.highest_level,
            )
            for parameters in draw_pair(columns, settings, steps_per_epoch)
        ]
        table = np.concatenate(tables)
    views = tuple(columns[name] for name in VIEWS[: settings.views.count])
    return Block(columns=columns, views=views, table=table)


def on_device(block: Block, device: torch.device) -> Batch:
    """The block's batch on the device, when it is there and finished."""
    views = tuple(_to_tensor(view).to(device) for view in block.views)
    if block.table is not None:
        tables = np.split(block.table, len(views))
        views = tuple(
            apply_photometry(view, table) for view, table in zip(views, tables, strict=True)
        )
    return block.batch(views)


def _to_tensor(array: NDArray[Any]) -> Tensor:
    """The array's own memory if it may be written to, as torch wants it; else a copy."""
    return torch.from_numpy(array if array.flags.writeable else np.array(array))
