"""A few images beside views of them, as training sees them, with what was drawn for each view."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bt_ray.config import Settings
from bt_ray.config.data import COLOURS
from bt_ray.data.stream.decode import SMALL, VIEWS, Columns, draw_all, make_views, operations
from bt_ray.data.views.draw import ViewParameters
from bt_ray.data.views.raster import central_view

Levels = NDArray[Any]
"""(px, px, c), uint8 or uint16."""


@dataclass(frozen=True, kw_only=True)
class ExampleView:
    """One view, finished, and what was drawn for it, in words such as `crop 41 %`."""

    levels: Levels
    words: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Example:
    """An image as evaluations see it, and its views: A and B of each epoch.

    `small`: the smaller views, one epoch's after another's.
    """

    name: str
    image: Levels
    views: tuple[ExampleView, ...]
    small: tuple[ExampleView, ...]


def make_examples(
    images: Iterable[tuple[str, bytes]], settings: Settings, *, count: int, epochs: int
) -> list[Example]:
    """The first images that can be decoded, and their views in the first epochs.

    Args:
      images: names and encoded images, of rows 0, 1, 2, … of the data set. With these numbers they
        get the very views that a run of the settings trains on; where the device does photometry,
        to within a level of 255 on average.
    """
    by_loader = replace(settings, views=replace(settings.views, photometry="loader"))
    table, central = _readable(images, settings, count)
    views = [list[ExampleView]() for _ in central]
    small = [list[ExampleView]() for _ in central]
    for epoch in range(epochs if central else 0):
        step = table.append_column("step", pa.array(np.full(table.num_rows, epoch)))
        columns = make_views(step, by_loader, steps_per_epoch=1)
        levels = _levels_of_views(columns)
        for number, drawn in enumerate(draw_all(columns, settings, 1)):
            kept = views if number < settings.views.count else small
            for i, mine in enumerate(kept):
                words = tuple(_words(drawn, i, columns, settings.data.channels))
                mine.append(ExampleView(levels=levels[number][i].transpose(1, 2, 0), words=words))
    names = table["name"].to_pylist()
    return [
        Example(name=name, image=image, views=tuple(mine), small=tuple(smaller))
        for name, image, mine, smaller in zip(names, central, views, small, strict=True)
    ]


def _levels_of_views(columns: Columns) -> list[Levels]:
    """Levels of each view, (n, c, px, px), and of each smaller one, in the order of `draw_all`."""
    small = [*columns[SMALL].swapaxes(0, 1)] if SMALL in columns else []
    return [*(columns[name] for name in VIEWS if name in columns), *small]


def _readable(
    images: Iterable[tuple[str, bytes]], settings: Settings, count: int
) -> tuple[pa.Table, list[Levels]]:
    """The first rows that can be decoded, without `step`, and the evaluated view of each."""
    decode = operations(settings)[0]
    rows, central = list[dict[str, Any]](), list[Levels]()
    for row, (name, encoded) in enumerate(images):
        if len(rows) == count:
            break
        try:
            height, width = np.asarray(decode(encoded)).shape[:2]
            central.append(central_view(encoded, settings))
        except OSError:
            continue
        rows.append(
            {
                "name": name, "image": encoded, "width": width, "height": height,
                "row": row, "slot": len(rows),
            }
        )  # fmt: skip
    schema = pa.schema(
        [("name", pa.string()), ("image", pa.binary())]
        + [(name, pa.int64()) for name in ("width", "height", "row", "slot")]
    )
    return pa.Table.from_pylist(rows, schema=schema), central


def _words(drawn: ViewParameters, row: int, columns: Columns, channels: int) -> Iterable[str]:
    """What was drawn for a view, an operation each, in the order in which they are applied."""
    area = int(drawn.crop_width[row]) * int(drawn.crop_height[row])
    yield f"crop {area / (columns['width'][row] * columns['height'][row]):.0%}"
    if drawn.flip[row]:
        yield "flip"
    if drawn.rotation_degrees[row]:
        yield f"rotated {drawn.rotation_degrees[row]:+.0f}°"
    if drawn.quarter_turns[row]:
        yield f"turned {90 * int(drawn.quarter_turns[row])}°"
    if drawn.flip_vertically[row]:
        yield "vertical flip"
    if drawn.jitter[row]:
        yield "jitter"
    if drawn.grayscale[row] and channels == COLOURS:
        yield "grey"
    if drawn.blur_sigma_px[row]:
        yield f"blur {drawn.blur_sigma_px[row]:.1f} px"
    if drawn.solarize[row]:
        yield "solarized"
