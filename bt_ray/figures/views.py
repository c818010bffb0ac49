"""Draws a sheet of images and the distorted views that training makes of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

_CELL, _GAP, _WORDS = 1.3, 0.08, 0.4
"""Inches: the side of a picture, what lies between two, and the lines below each."""
_TOP, _BOTTOM, _SIDE = 0.75, 0.6, 0.1
_LETTERS_OF_A_CELL, _LETTERS_OF_AN_INCH = 30, 17
_SMALL, _PLAIN, _LARGE = 5.5, 7.0, 9.0
_COLOURS = 3
_VIEW_PER_GAP = 24
"""So many times as long as a gap is a view of those that are joined."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One image and its views.

    `pictures` are levels (px, px, c), uint8 or uint16, the image first, each with a px of its own;
    `words` are below each.
    """

    pictures: tuple[NDArray[Any], ...]
    words: tuple[str, ...]


def draw_views(
    rows: Sequence[Row], *, headings: Sequence[str], title: str, caption: str, file: Path
) -> None:
    """Writes a PNG with a row for each image.

    Of other than one or three channels the first three are shown as red, green and blue, of two
    their mean. Deep levels are brightened until the brightest image shown is white. The title says
    both.

    Args:
      headings: of the columns, as many as a row has pictures.
      caption: below all rows.
    """
    first = rows[0].pictures[0]
    brightest = max(int(row.pictures[0].max(initial=1)) for row in rows)
    highest = int(np.iinfo(first.dtype).max) if first.dtype == np.uint8 else brightest
    width = 2 * _SIDE + len(headings) * (_CELL + _GAP)
    height = _TOP + len(rows) * (_CELL + _WORDS) + _BOTTOM
    figure = Figure(figsize=(width, height), dpi=120)
    panel = figure.add_axes((0, 0, 1, 1))
    panel.set(xlim=(0, width), ylim=(height, 0))
    panel.set_axis_off()
    panel.text(
        _SIDE, 0.25, " · ".join([title, *_ways(first, highest)]), fontsize=_LARGE, va="center"
    )
    for column, heading in enumerate(headings):
        panel.text(_left(column), _TOP - 0.12, heading, fontsize=_PLAIN, weight="bold")
    for number, row in enumerate(rows):
        _draw_row(panel, row, _TOP + number * (_CELL + _WORDS), highest)
    panel.text(
        _SIDE,
        height - _BOTTOM + 0.05,
        fill(caption, int(_LETTERS_OF_AN_INCH * width)),
        fontsize=_PLAIN,
        va="top",
    )
    figure.savefig(file)


def join_views(views: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Views (px, px, c) side by side in a square, row after row, with white lines between them.

    What is left of the square is white, too.
    """
    px, _, channels = views[0].shape
    across, gap = math.ceil(math.sqrt(len(views))), math.ceil(px / _VIEW_PER_GAP)
    side = across * (px + gap) - gap
    white = np.iinfo(views[0].dtype).max
    joined = np.full((side, side, channels), white, views[0].dtype)
    for number, view in enumerate(views):
        top, left = (place * (px + gap) for place in divmod(number, across))
        joined[top : top + px, left : left + px] = view
    return joined


def _draw_row(panel: Axes, row: Row, top: float, highest: int) -> None:
    for column, (picture, words) in enumerate(zip(row.pictures, row.words, strict=True)):
        left = _left(column)
        panel.imshow(
            to_rgb(picture, highest),
            extent=(left, left + _CELL, top + _CELL, top),
            interpolation="nearest",
            aspect="auto",
        )
        below = fill(words, _LETTERS_OF_A_CELL, max_lines=3, placeholder=" …")
        panel.text(left, top + _CELL + 0.03, below, fontsize=_SMALL, va="top")


def _left(column: int) -> float:
    return _SIDE + column * (_CELL + _GAP)


def to_rgb(levels: NDArray[Any], highest: int) -> NDArray[np.uint8]:
    """The picture (px, px, c) as people can look at it, (px, px, 3).

    Args:
      highest: level that is shown as 255.
    """
    channels = levels.shape[2]
    shown = levels[..., :_COLOURS] if channels >= _COLOURS else levels.mean(axis=2, keepdims=True)
    bright = (shown.astype(np.float64) * (255 / highest)).clip(0, 255)
    return np.broadcast_to(np.rint(bright), (*levels.shape[:2], _COLOURS)).astype(np.uint8)


def _ways(levels: NDArray[Any], highest: int) -> list[str]:
    """How levels are shown, in words; empty where they are shown as they are."""
    channels, ways = levels.shape[2], []
    if channels > _COLOURS:
        ways.append(f"channels 1 to {_COLOURS} of {channels} as red, green, blue")
    elif channels not in (1, _COLOURS):
        ways.append(f"mean of {channels} channels")
    factor = np.iinfo(levels.dtype).max / highest
    if factor >= 1.1:
        ways.append(f"brightened {factor:.1f} times")
    return ways
