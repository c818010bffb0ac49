"""A worker's part of one step: on the host, and as tensors on the device that trains."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bt_ray.config import Settings
from bt_ray.data.stream.decode import SMALL, VIEWS, draw_all
from bt_ray.data.views.draw import ViewParameters
from bt_ray.data.views.photometry import apply_photometry, tabulate
from bt_ray.data.views.photometry.table import NUM_COLUMNS, Table


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
    small: NDArray[np.uint8 | np.uint16] | None = None
    """Levels of the smaller views, (n, s, c, px, px), their px; none if there are none."""
    table: Table | None
    """The photometry of all views, (views · n + n · s, NUM_COLUMNS): one view after the other, then
    the smaller ones of one image after the other; none where the loader has done it."""

    def batch(self, views: tuple[Tensor, ...], small: Tensor | None) -> Batch:
        """The batch of these finished views."""
        columns = self.columns
        return Batch(
            step=int(columns["step"][0]),
            views=views,
            small=small,
            samples=columns["sample"],
            digest=int(np.sum(columns["digest"], dtype=np.uint64)),
            replaced=tuple(columns["row"][columns["row"] != columns["sample"]].tolist()),
        )


def to_block(
    columns: Mapping[str, NDArray[Any]], settings: Settings, steps_per_epoch: int
) -> Block:
    """The columns of `make_views`, with what photometry they still want."""
    views = tuple(columns[name] for name in VIEWS[: settings.views.count])
    small = columns[SMALL] if settings.views.small_count else None
    table = None
    if settings.views.photometry == "device":
        table = _tabulate_all(draw_all(columns, settings, steps_per_epoch), settings)
    return Block(columns=columns, views=views, small=small, table=table)


def _tabulate_all(drawn: list[ViewParameters], settings: Settings) -> Table:
    """The table of a block, of what was drawn for its views and then for its smaller ones."""
    tables = [
        tabulate(
            parameters,
            settings.views.solarize_threshold,
            channels=settings.data.channels,
            highest_level=settings.data.highest_level,
        )
        for parameters in drawn
    ]
    views, small = tables[: settings.views.count], tables[settings.views.count :]
    by_image = [np.stack(small, axis=1).reshape(-1, NUM_COLUMNS)] if small else []
    return np.concatenate([*views, *by_image])


def on_device(block: Block, device: torch.device) -> Batch:
    """The block's batch on the device, when it is there and finished."""
    views = tuple(_to_tensor(view).to(device) for view in block.views)
    small = None if block.small is None else _to_tensor(block.small).to(device)
    if block.table is not None:
        rows = len(views[0])
        *tables, of_small = np.split(block.table, [rows * (v + 1) for v in range(len(views))])
        views = tuple(
            apply_photometry(view, table) for view, table in zip(views, tables, strict=True)
        )
        if small is not None:
            small = apply_photometry(small.flatten(0, 1), of_small).unflatten(0, small.shape[:2])
    return block.batch(views, small)


def _to_tensor(array: NDArray[Any]) -> Tensor:
    """The array's own memory if it may be written to, as torch wants it; else a copy."""
    return torch.from_numpy(array if array.flags.writeable else np.array(array))
