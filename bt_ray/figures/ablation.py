"""Draws an ablation: scores over the varied setting, with their spread over seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bt_ray.figures.comparison import COLORS

_PANEL = (4.8, 3.4)
_BAR_HEIGHT = 0.36


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A case's scores, one for each seed, shares 0 to 1."""

    label: str
    x: float | None
    line: str
    scores: Sequence[float]


def draw_ablation(
    panels: Mapping[str, Sequence[Mark]],
    *,
    title: str,
    axis: str | None,
    untrained: Mapping[str, float],
    file: Path,
) -> None:
    """Writes a PNG with one panel for each kind of score.

    Args:
      panels: kind of score → the cases' scores.
      axis: label of the x axis; none: the cases are drawn as bars.
      untrained: kind of score → the untrained encoder's score, drawn as a dotted line.
    """
    shown = {name: [m for m in marks if m.scores] for name, marks in panels.items()}
    width, height = _PANEL
    most = max((len(marks) for marks in shown.values()), default=0)
    height = height if axis else 1.2 + _BAR_HEIGHT * most
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
        axes.grid(alpha=0.25)
    figure.savefig(file, dpi=120)


def _draw_lines(axes: Axes, marks: Sequence[Mark], axis: str) -> None:
    """Means over seeds with error bars, joined by lines."""
    lines = list(dict.fromkeys(mark.line for mark in marks))
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
    """One bar for each case, the first one on top; each line has its own colour."""
    places = range(len(marks) - 1, -1, -1)
    lines = list(dict.fromkeys(mark.line for mark in marks))
    axes.barh(
        places, [100 * mean(m.scores) for m in marks], xerr=[100 * _spread(m) for m in marks],
        color=[COLORS[lines.index(m.line) % len(COLORS)] for m in marks], height=0.62, capsize=3,
    )  # fmt: skip
    axes.set_yticks(list(places), [mark.label for mark in marks])


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
    """Standard deviation over seeds; 0 for a single seed."""
    return stdev(mark.scores) if len(mark.scores) > 1 else 0.0
