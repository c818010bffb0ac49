"""Draws an ablation: scores over the varied setting, with their spread over seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan
from statistics import mean, stdev

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bt_ray.figures.comparison import COLORS

_PANEL = (4.8, 3.4)
_BAR, _GAP = 0.22, 0.14
"""Inches: how high a bar is, and what is between two cases' bars."""


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A case's scores, one for each seed, shares 0 to 1."""

    label: str
    """What was varied; one of each line."""
    x: float | None
    line: str
    scores: Sequence[float]


def draw_ablation(
    panels: Mapping[str, Sequence[Mark]],
    *,
    title: str,
    axis: str | None,
    untrained: Mapping[str, float],
) -> Figure:
    """One panel for each kind of score.

    Args:
      panels: kind of score → the cases' scores.
      axis: label of the x axis; none: the cases are drawn as bars, those of one label together.
      untrained: kind of score → the untrained encoder's score, drawn as a dotted line.
    """
    shown = {name: [m for m in marks if m.scores] for name, marks in panels.items()}
    width, height = _PANEL
    if not axis:
        height = max((_bars_height(marks) for marks in shown.values()), default=height)
    figure = Figure(figsize=(width * len(shown), height), layout="constrained")
    figure.suptitle(title)
    all_axes = figure.subplots(1, len(shown), squeeze=False, sharey=axis is None)[0]
    for axes, (name, marks) in zip(all_axes, shown.items(), strict=True):
        if axis:
            _draw_lines(axes, marks, axis)
            axes.set(ylabel=f"{name}, %")
        else:
            _draw_bars(axes, marks)
            axes.set(xlabel=f"{name}, %")
        if name in untrained:
            _draw_untrained(axes, 100 * untrained[name], is_vertical=axis is None)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25, axis="both" if axis else "x")
        axes.set_axisbelow(True)
    bars, lines = all_axes[0].get_legend_handles_labels()
    if bars and not axis:
        figure.legend(bars, lines, ncols=len(lines), loc="outside lower center", frameon=False)
    return figure


def _draw_lines(axes: Axes, marks: Sequence[Mark], axis: str) -> None:
    """Means over seeds with error bars, joined by lines."""
    lines = _lines(marks)
    for number, line in enumerate(lines):
        own = sorted((m for m in marks if m.line == line), key=lambda m: m.x or 0.0)
        color = COLORS[number % len(COLORS)]
        xs = [m.x or 0.0 for m in own]
        axes.errorbar(
            xs, [100 * mean(m.scores) for m in own], yerr=[100 * _spread(m) for m in own],
            color=color, marker="o", markersize=4, linewidth=1.6, capsize=3, label=line,
        )  # fmt: skip
    axes.set(xlabel=axis, xscale="log")
    axes.set_xticks(sorted({m.x or 0.0 for m in marks}), minor=False)
    axes.set_xticks([], minor=True)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.tick_params(axis="x", labelrotation=45)
    if lines != [""]:
        axes.legend(frameon=False)


def _draw_bars(axes: Axes, marks: Sequence[Mark]) -> None:
    """The first case on top, with a bar of its own colour for each line."""
    labels, lines = _labels(marks), _lines(marks)
    height = _BAR / (len(lines) * _BAR + _GAP)
    for number, line in enumerate(lines):
        own = [m for m in marks if m.line == line]
        offset = (number - (len(lines) - 1) / 2) * height
        axes.barh(
            [labels.index(m.label) + offset for m in own],
            [100 * mean(m.scores) for m in own], xerr=[100 * _spread(m) for m in own],
            color=COLORS[number % len(COLORS)], height=height, capsize=3, label=line,
        )  # fmt: skip
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(max(1, len(labels)) - 0.5, -0.5)


def _bars_height(marks: Sequence[Mark]) -> float:
    """Inches of a figure with a bar for each of these."""
    return 1.2 + len(_labels(marks)) * (len(_lines(marks)) * _BAR + _GAP)


def _labels(marks: Sequence[Mark]) -> list[str]:
    return list(dict.fromkeys(mark.label for mark in marks))


def _lines(marks: Sequence[Mark]) -> list[str]:
    return list(dict.fromkeys(mark.line for mark in marks))


def _draw_untrained(axes: Axes, value: float, *, is_vertical: bool) -> None:
    line = axes.axvline if is_vertical else axes.axhline
    line(value, color="0.35", linestyle=":", linewidth=1.2)
    place = {"x": value, "y": 1.0} if is_vertical else {"x": 1.0, "y": value}
    transform = axes.get_xaxis_transform() if is_vertical else axes.get_yaxis_transform()
    axes.text(
        place["x"], place["y"], "untrained", transform=transform, fontsize=8, color="0.35",
        ha="right", va="bottom",
    )  # fmt: skip


def _spread(mark: Mark) -> float:
    """Standard deviation over seeds; nan, which is not drawn, for a single one."""
    return stdev(mark.scores) if len(mark.scores) > 1 else nan
