"""From rows of a shard to two views of each image, without torch: what Ray Data's tasks do.

Importing torch takes longer than decoding some thousand images, and a task's process needs
none of it.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from bt_ray.config import Settings, ViewSettings
from bt_ray.data import fast_views, views
from bt_ray.data.digest import digest_rows
from bt_ray.data.plan import Plan
from bt_ray.data.shards import ShardSet, take_rows

Columns = dict[str, NDArray[Any]]


def read_steps(shards: ShardSet, plan: Plan, start: int, stop: int) -> pa.Table:
    """The samples of steps `start` to `stop` (exclusive) of one window, in the plan's order.

    Returns: columns `row`, `image`, `width`, `height`, `step`, and `slot`, the place in the
      global batch, 0 to N − 1.
    """
    window = plan.window(start)
    place = np.arange(start * plan.global_batch, stop * plan.global_batch)
    first = window.span.first_step * plan.global_batch
    rows = window.rows[place[0] - first : place[-1] + 1 - first]
    return (
        take_rows(shards.read(window.row_groups), rows)
        .select(["row", "image", "width", "height"])
        .append_column("step", pa.array(place // plan.global_batch))
        .append_column("slot", pa.array(place % plan.global_batch))
    )


def make_views(table: pa.Table, settings: Settings, steps_per_epoch: int) -> Columns:
    """Two views of each row: cropped, and finished too if photometry belongs to the loader.

    Args:
      table: rows of one step with columns `row`, `image`, `width`, `height`, `step`, `slot`.
    Returns: the columns but `image`, with `view_a` and `view_b`, uint8 (n, 3, px, px), and
      `digest`, uint64 (n,), of how they were made.
    """
    columns: Columns = {
        name: table[name].to_numpy() for name in ("row", "width", "height", "step", "slot")
    }
    pair = draw_pair(columns, settings, steps_per_epoch)
    px = settings.views.image_px
    made = np.empty((2, table.num_rows, 3, px, px), dtype=np.uint8)
    backend = _reference if settings.views.backend == "reference" else _fast
    for i, encoded in enumerate(table["image"]):
        for view, levels in enumerate(backend(encoded.as_buffer(), pair, i, settings.views)):
            cv2.split(np.asarray(levels), list(made[view, i]))
    columns["view_a"], columns["view_b"] = made
    columns["digest"] = digest_rows(columns["step"], columns["slot"], columns["row"], pair)
    return columns


def _reference(
    encoded: pa.Buffer, pair: Sequence[views.ViewParameters], row: int, settings: ViewSettings
) -> Iterator[Image.Image]:
    image = views.decode(encoded)
    for parameters in pair:
        view = views.crop(image, parameters, row, settings.image_px)
        if settings.photometry == "loader":
            view = views.photometry(view, parameters, row, settings.solarize_threshold)
        yield view


def _fast(
    encoded: pa.Buffer, pair: Sequence[views.ViewParameters], row: int, settings: ViewSettings
) -> Iterator[fast_views.Levels]:
    image = fast_views.decode(encoded)
    for parameters in pair:
        view = fast_views.crop(image, parameters, row, settings.image_px)
        if settings.photometry == "loader":
            view = fast_views.photometry(view, parameters, row, settings.solarize_threshold)
        yield view


def draw_pair(
    columns: Mapping[str, NDArray[Any]], settings: Settings, steps_per_epoch: int
) -> list[views.ViewParameters]:
    """Parameters of both views of a step's rows; drawn alike wherever they are needed."""
    return [
        views.draw(
            settings.views,
            seed=settings.training.seed,
            epoch=int(columns["step"][0]) // steps_per_epoch,
            view=view,
            samples=columns["row"],
            widths=columns["width"],
            heights=columns["height"],
        )
        for view in (0, 1)
    ]
