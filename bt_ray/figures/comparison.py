"""Draws several runs together: a measure over the steps, spectra; and a map of images."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#5b5b5b")
"""The runs' colours, in turn; most colour-blind people can tell them apart (Okabe, Ito 2008)."""
_STYLES = ("-", "--", ":", "-.")
_CLASS_COLORS = matplotlib.colormaps["tab10"].colors  # type: ignore[attr-defined]
_MANY = matplotlib.colormaps["turbo"]
_FLOOR = 1e-9  # below, a float32 representation's eigenvalues are its rounding
_SIZE = (4.4, 2.7)

Points = Mapping[int, float]


def color_of(run: int) -> str:
    """The colour of a run; `run` is its place among the shown runs, from 0."""
    return COLORS[run % len(COLORS)]


def style_of(run: int) -> str:
    """The line style of a run, which differs between runs of the same colour."""
    return _STYLES[run // len(COLORS) % len(_STYLES)]


def draw_measure(
    curves: Sequence[Points], *, title: str, with_marks: bool, is_percentage: bool = False
) -> Figure:
    """One line for each run: a measure over the steps.

    Args:
      curves: of each run, step → value; empty if the run was not measured.
      with_marks: whether to mark single points, of which there are few.
      is_percentage: whether the values are shares, 0 to 1, to be shown in per cent.
    """
    figure, axes = _panel()
    shown = [points for points in curves if points]
    for run, points in enumerate(curves):
        if points:
            axes.plot(
                list(points),
                [100 * value if is_percentage else value for value in points.values()],
                color=color_of(run),
                linestyle=style_of(run),
                marker="o" if with_marks or len(points) == 1 else "",
                markersize=3.5,
                linewidth=1.6,
            )
    axes.set(xlabel="step", title=title)
    values = [value for points in shown for value in points.values()]
    if not with_marks and min(values) > 0 and max(values) > 20 * min(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    return figure


def draw_spectra(spectra: Sequence[Mapping[int, NDArray[np.float32]]]) -> Figure:
    """Each run's eigenvalues at its last probe, in its colour, and before training, fainter.

    Args:
      spectra: of each run, step → eigenvalues (F,), descending, sum 1.
    """
    figure, axes = _panel()
    for run, by_step in enumerate(spectra):
        for step in dict.fromkeys([*list(by_step)[:1], *list(by_step)[-1:]]):
            seen = by_step[step][by_step[step] > _FLOOR]
            is_start = step == 0
            axes.plot(
                np.arange(1, len(seen) + 1),
                seen,
                color=color_of(run),
                linestyle=(0, (1, 1.5)) if is_start else style_of(run),
                alpha=0.55 if is_start else 1,
                linewidth=1.2 if is_start else 1.6,
            )
    axes.set(
        xlabel="eigenvalue, in order of size", title="Spectrum: share of variance", yscale="log"
    )
    return figure


def draw_map(
    places: NDArray[np.float32], labels: NDArray[np.int64], classes: Sequence[str], *, title: str
) -> Figure:
    """Images as points in the plane, coloured by class.

    Args:
      places: (n, 2).
      labels: (n,), −1 for an image without label.
    """
    figure = Figure(figsize=(4.4, 4.0), layout="constrained")
    axes = figure.subplots()
    is_named = 1 < len(classes) <= len(_CLASS_COLORS)
    for label in np.unique(labels):
        here = labels == label
        color: Any = COLORS[0]
        if label >= 0:  # of many classes, neighbours in their order have like colours
            color = _CLASS_COLORS[label] if is_named else _MANY(label / len(classes))
        axes.scatter(places[here, 0], places[here, 1], s=9, color=color, alpha=0.75, linewidths=0)
    if is_named:
        for label, name in enumerate(classes):
            axes.scatter([], [], s=22, color=_CLASS_COLORS[label], label=name[:14])
        figure.legend(
            loc="outside lower center", ncols=5, frameon=False, fontsize=8.5, handletextpad=0.1,
            columnspacing=1.0,
        )  # fmt: skip
    axes.set(title=title, xticks=[], yticks=[])
    axes.spines[:].set_color("#d5d9de")
    return figure


def heat_map(
    matrix: NDArray[np.float32], most_px: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A picture of a correlation matrix: blue at −1, white at 0, red at 1.

    Args:
      most_px: rows and columns that are shown at most, the first ones.
    Returns: levels (d, d), palette (256, 3).
    """
    shown = matrix[:most_px, :most_px]
    levels = np.rint((np.clip(shown, -1, 1) + 1) * 127.5).astype(np.uint8)
    palette = matplotlib.colormaps["RdBu_r"](np.arange(256), bytes=True)[:, :3]
    return levels, np.ascontiguousarray(palette)


def _panel() -> tuple[Figure, Axes]:
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.tick_params(length=3)
    return figure, axes
