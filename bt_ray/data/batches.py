"""From rows of a shard to a batch of two views; the same with and without Ray."""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from bt_ray.config import Settings, ViewSettings
from bt_ray.data import views
from bt_ray.data.photometry import apply_photometry
from bt_ray.data.plan import Plan, choose_window
from bt_ray.data.shards import Manifest, ShardSet, take_rows
from bt_ray.errors import PlanError

Columns = dict[str, NDArray[Any]]

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One worker's part of a global batch: its two views, before normalisation.

    `views`: two tensors (n, 3, px, px), uint8, or float32 levels 0 to 255 after photometry.
    """

    step: int
    views: tuple[Tensor, Tensor]


def build_plan(settings: Settings, manifest: Manifest) -> Plan:
    """The order of all samples of a run over this data set."""
    return Plan(
        manifest.num_rows,
        manifest.rows_per_row_group,
        settings.data.global_batch,
        settings.training.seed,
        choose_window(
            num_rows=manifest.num_rows,
            num_bytes=manifest.num_bytes,
            rows_per_row_group=manifest.rows_per_row_group,
            global_batch=settings.data.global_batch,
            window_mb=settings.data.window_mb,
        ),
    )


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
    pair = _draw_pair(columns, settings, steps_per_epoch)
    px = settings.views.image_px
    made = np.empty((2, table.num_rows, px, px, 3), dtype=np.uint8)
    for i, encoded in enumerate(table["image"]):
        image = decode(encoded.as_buffer())
        for view, parameters in enumerate(pair):
            made[view, i] = _make_view(image, parameters, i, settings.views)
    columns["view_a"], columns["view_b"] = (np.ascontiguousarray(v.transpose(0, 3, 1, 2)) for v in made)
    return columns


def _make_view(
    image: Image.Image, parameters: views.ViewParameters, row: int, settings: ViewSettings
) -> Image.Image:
    view = views.crop(image, parameters, row, settings.image_px)
    if settings.photometry == "device":
        return view
    return views.photometry(view, parameters, row, settings.solarize_threshold)


def _draw_pair(
    columns: Mapping[str, NDArray[Any]], settings: Settings, steps_per_epoch: int
) -> list[views.ViewParameters]:
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


def to_batch(
    columns: Mapping[str, NDArray[Any]],
    settings: Settings,
    steps_per_epoch: int,
    device: torch.device,
) -> Batch:
    """The columns of `make_views` as tensors on the device, with photometry if it belongs there."""
    step = int(columns["step"][0])
    pair = tuple(
        torch.from_numpy(np.array(columns[name])).to(device) for name in ("view_a", "view_b")
    )
    if settings.views.photometry == "device":
        pair = tuple(
            apply_photometry(view, parameters, settings.views.solarize_threshold)
            for view, parameters in zip(
                pair, _draw_pair(columns, settings, steps_per_epoch), strict=True
            )
        )
    return Batch(step=step, views=(pair[0], pair[1]))


def check_place(
    columns: Mapping[str, NDArray[Any]], step: int, rank: int, num_rows: int
) -> None:
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
            f"was given {len(slots)} rows from slot {slots[0]} of step {steps[0]}."
        )


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
    for span in plan.spans(start, stop):
        table = read_steps(
            shards, plan, max(start, span.first_step), min(stop, span.stop_step)
        )
        for first in range(rank * size, table.num_rows, plan.global_batch):
            columns = make_views(table.slice(first, size), settings, plan.steps_per_epoch)
            yield to_batch(columns, settings, plan.steps_per_epoch, device)


def normalize(levels: Tensor) -> Tensor:
    """Levels 0 to 255, (n, 3, h, w), as float32 with ImageNet's mean and deviation removed."""
    mean = torch.tensor(_IMAGENET_MEAN, device=levels.device).view(1, 3, 1, 1) * 255
    std = torch.tensor(_IMAGENET_STD, device=levels.device).view(1, 3, 1, 1) * 255
    return (levels.float() - mean) / std
