"""From rows of a shard to two views of each image, without torch: what Ray Data's tasks do.

Importing torch takes longer than decoding some thousand images, and a task's process needs
none of it.
"""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from bt_ray.config import Settings, ViewSettings
from bt_ray.data import views
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


def decode(encoded: bytes) -> Image.Image:
    """The image in `encoded`, as RGB."""
    return Image.open(io.BytesIO(encoded)).convert("RGB")


def make_views(table: pa.Table, settings: Settings, steps_per_epoch: int) -> Columns:
    """Two views of each row: cropped, and finished too if photometry belongs to the loader.

    Args:
      table: rows of one step with columns `row`, `image`, `width`, `height`, `step`, `slot`.
    Returns: the columns but `image`, with `view_a` and `view_b`, uint8 (n, 3, px, px).
    """
    columns: Columns = {
        name: table[name].to_numpy() for name in ("row", "width", "height", "step", "slot")
    }
    pair = draw_pair(columns, settings, steps_per_epoch)
    px = settings.views.image_px
    made = np.empty((2, table.num_rows, px, px, 3), dtype=np.uint8)
    for i, encoded in enumerate(table["image"]):
        image = decode(encoded.as_buffer())
        for view, parameters in enumerate(pair):
            made[view, i] = _make_view(image, parameters, i, settings.views)
    columns["view_a"], columns["view_b"] = (
        np.ascontiguousarray(v.transpose(0, 3, 1, 2)) for v in made
    )
    return columns


def _make_view(
    image: Image.Image, parameters: views.ViewParameters, row: int, settings: ViewSettings
) -> Image.Image:
    view = views.crop(image, parameters, row, settings.image_px)
    if settings.photometry == "device":
        return view
    return views.photometry(view, parameters, row, settings.solarize_threshold)


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
