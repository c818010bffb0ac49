"""The fixed images that a probe looks at: as they are, and in pairs of views."""

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from bt_ray.config import Settings
from bt_ray.data.stream.batches import to_batch
from bt_ray.data.stream.decode import make_views
from bt_ray.data.views.raster import central_view

_log = logging.getLogger(__name__)

_BLOCK = 128
_THREADS = 2


@dataclass(frozen=True)
class LabelledImages:
    """One worker's share of some images, ready to encode.

    `pixels`: uint8 or uint16 (n, c, px, px); `labels`: int64 (n,), -1 where there is none; `rows`:
    int64 (n,), their numbers in the data set.
    """

    pixels: Tensor
    labels: Tensor
    rows: Tensor


@dataclass(frozen=True)
class ViewPairs:
    """One worker's share of some images, each in two views, ready to encode.

    `view_a`, `view_b`: uint8 or uint16 (n, c, px, px); `rows`: int64 (n,), their numbers in the
    data set.
    """

    view_a: Tensor
    view_b: Tensor
    rows: Tensor


def load_images(table: pa.Table, settings: Settings) -> LabelledImages:
    """The central view of each row of shards, but of those that cannot be decoded.

    Args:
      settings: those of the encoder's run: the view's side, channels and levels are theirs.
    """

    def pixels(encoded: pa.BinaryScalar) -> NDArray[Any] | None:
        try:
            return central_view(encoded.as_buffer(), settings)
        except OSError:
            return None

    with ThreadPoolExecutor(_THREADS) as pool:
        found = list(pool.map(pixels, table["image"]))
    images = [image for image in found if image is not None]
    if len(images) < len(found):
        _log.warning(
            "%d of %d images cannot be decoded and are left out of the evaluation.",
            len(found) - len(images),
            len(found),
        )
        table = table.filter(pa.array([image is not None for image in found]))
    px, data = settings.views.image_px, settings.data
    none = np.empty((0, px, px, data.channels), data.pixels.dtype)
    stacked = np.stack(images) if images else none
    return LabelledImages(
        pixels=torch.from_numpy(stacked.transpose(0, 3, 1, 2).copy()),
        labels=torch.from_numpy(table["label"].fill_null(-1).to_numpy().astype(np.int64)),
        rows=_rows(table),
    )


def load_view_pairs(table: pa.Table, settings: Settings, device: torch.device) -> ViewPairs:
    """Two views of each row of shards, those that the row has in a run's first epoch.

    They depend on the seed and the row's number alone: the same in every probe, and however
    the rows are shared out. There are no smaller ones beside them.

    Args:
      device: where photometry is applied, if the settings want it on a device.
    """
    settings = replace(settings, views=replace(settings.views, small_count=0))
    keyed = table.append_column("step", pa.array(np.zeros(len(table), np.int64)))
    keyed = keyed.append_column("slot", keyed["row"])
    blocks = [keyed.slice(first, _BLOCK) for first in range(0, len(keyed), _BLOCK)]
    px, data = settings.views.image_px, settings.data
    none = torch.from_numpy(np.empty((0, data.channels, px, px), data.pixels.dtype))
    views = [[none] for _ in range(2)]
    with ThreadPoolExecutor(_THREADS) as pool:
        for columns in pool.map(lambda block: make_views(block, settings, 1), blocks):
            for kept, view in zip(views, to_batch(columns, settings, 1, device).views, strict=True):
                kept.append(view.cpu())
    return ViewPairs(torch.cat(views[0]), torch.cat(views[1]), _rows(table))


def _rows(table: pa.Table) -> Tensor:
    return torch.from_numpy(table["row"].to_numpy().copy())
