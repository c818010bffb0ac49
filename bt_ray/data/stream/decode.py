"""From rows of a shard to views of each image, without torch: what Ray Data's tasks do.

Importing torch takes longer than decoding some thousand images, and a task's process needs
none of it.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from bt_ray.config import Settings
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.stream.digest import digest_rows
from bt_ray.data.stream.plan import Plan
from bt_ray.data.stream.spares import Spare
from bt_ray.data.stream.window import HeldWindow
from bt_ray.data.views import fast, planes, reference
from bt_ray.data.views.draw import ViewParameters, draw
from bt_ray.data.views.raster import decode_raster
from bt_ray.data.views.small import draw_small
from bt_ray.data.views.turn import turn
from bt_ray.errors import DataError

Columns = dict[str, NDArray[Any]]
MakeViews = Callable[..., Columns]
"""`make_views`, or what stands in for it; it travels to the processes that decode."""
VIEWS = ("view_a", "view_b")
"""Columns of views; the second one is absent if there is one view."""
SMALL = "small"
"""Column of the smaller views of each image; absent if there are none."""


def read_steps(shards: ShardSet, plan: Plan, start: int, stop: int) -> pa.Table:
    """The samples of steps `start` to `stop` (exclusive) of one window, in the plan's order.

    Returns: columns `row`, `image`, `width`, `height`, `step`, and `slot`, the place in the
      global batch, 0 to N − 1.
    """
    return HeldWindow.read(shards, plan, start).samples(start, stop)


def make_views(
    table: pa.Table,
    settings: Settings,
    steps_per_epoch: int,
    spares: Callable[[int, int], Iterator[Spare]] | None = None,
) -> Columns:
    """The views of each row, two or one, and its smaller ones, if the settings have any.

    They are cropped, and finished if photometry is the loader's.

    Args:
      table: rows of one step with columns `row`, `image`, `width`, `height`, `step`, `slot`.
      spares: what may stand in for an image that cannot be decoded, by step and slot; none:
        such an image is an error.
    Returns: the columns but `image`, with `view_a` and, if there are two, `view_b`, both
      (n, c, px, px), uint8 or uint16 as the settings have it; `small`, if there are s of them,
      (n, s, c, px', px'), px' their side; `sample`, the row whose image was used; and `digest`,
      uint64 (n,), of how the views were made.
    Raises: DataError if an image cannot be decoded, nor its spares.
    """
    columns: Columns = {
        name: table[name].to_numpy() for name in ("row", "width", "height", "step", "slot")
    }
    columns["sample"] = columns["row"]
    drawn = draw_all(columns, settings, steps_per_epoch)
    made, small = _empty_views(table.num_rows, settings)
    views, (decode, crop, photometry) = settings.views, operations(settings)
    for i, encoded in enumerate(table["image"]):
        try:
            image = decode(encoded.as_buffer())
        except OSError as fault:
            image, spare = _stand_in(columns, i, fault, decode, spares)
            here = np.arange(table.num_rows) == i
            for name in ("sample", "width", "height"):
                columns[name] = np.where(here, getattr(spare, name), columns[name])
            drawn = draw_all(columns, settings, steps_per_epoch)
        for parameters, view in zip(drawn, (*made[:, i], *small[i]), strict=True):
            levels = turn(crop(image, parameters, i, view.shape[-1]), parameters, i)
            if views.photometry == "loader":
                levels = photometry(levels, parameters, i, views.solarize_threshold)
            cv2.split(np.asarray(levels), list(view))
    columns.update(zip(VIEWS, made, strict=False))
    if views.small_count:
        columns[SMALL] = small
    columns["digest"] = digest_rows(columns["step"], columns["slot"], columns["sample"], drawn)
    return columns


def _empty_views(rows: int, settings: Settings) -> tuple[NDArray[Any], NDArray[Any]]:
    """Memory for views (v, n, c, px, px) and for smaller ones (n, s, c, px', px')."""
    views, channels, dtype = settings.views, settings.data.channels, settings.data.pixels.dtype
    px, small_px = views.image_px, views.small_px
    return (
        np.empty((views.count, rows, channels, px, px), dtype),
        np.empty((rows, views.small_count, channels, small_px, small_px), dtype),
    )


def bytes_of_views(settings: Settings) -> int:
    """What the views of one image take, with its smaller ones."""
    views, data = settings.views, settings.data
    num_pixels = views.count * views.image_px**2 + views.small_count * views.small_px**2
    return data.channels * (data.bit_depth // 8) * num_pixels


def operations(
    settings: Settings,
) -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
    """What decodes an image, crops a view of it, and does its photometry."""
    if not settings.data.is_rgb:
        return partial(decode_raster, data=settings.data), planes.crop, planes.photometry
    backend = fast if settings.views.backend == "fast" else reference
    return _decoder(settings), backend.crop, backend.photometry


def _decoder(settings: Settings) -> Callable[[Any], Any]:
    """What decodes 8-bit RGB for the backend's crop; upright, if the settings want that."""
    is_fast = settings.views.backend == "fast"
    if settings.data.orientation == "ignored":
        return fast.decode if is_fast else reference.decode
    upright = partial(decode_raster, data=settings.data)
    return upright if is_fast else lambda encoded: Image.fromarray(upright(encoded))


def _stand_in(
    columns: Columns,
    i: int,
    fault: OSError,
    decode: Callable[[pa.Buffer], Any],
    spares: Callable[[int, int], Iterator[Spare]] | None,
) -> tuple[Any, Spare]:
    """The first spare of row `i` that can be decoded, and its image."""
    for spare in () if spares is None else spares(columns["step"][i], columns["slot"][i]):
        try:
            return decode(spare.encoded), spare
        except OSError:
            continue
    alone = "" if spares is None else ", nor can those that would stand in for it"
    raise DataError(
        f"The image of row {columns['row'][i]} cannot be decoded ({fault}){alone}."
    ) from fault


def draw_all(
    columns: Mapping[str, NDArray[Any]], settings: Settings, steps_per_epoch: int
) -> list[ViewParameters]:
    """Parameters of each view of a step's rows, then of each smaller one.

    They are drawn alike wherever they are needed.
    """
    key: dict[str, Any] = {
        "seed": settings.training.seed,
        "epoch": int(columns["step"][0]) // steps_per_epoch,
        "samples": columns["row"],
        "widths": columns["width"],
        "heights": columns["height"],
    }
    pair = [draw(settings.views, view=view, **key) for view in range(settings.views.count)]
    return [*pair, *draw_small(settings.views, **key)]
