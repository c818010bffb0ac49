"""Draws methods side by side: their scores, seed by seed, and how these rose."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bt_ray.figures.comparison import color_of, style_of

_PANEL_WIDTH = 4.6
_ROW_HEIGHT = 0.34
_LEAST_HEIGHT = 3.2

Curve = Sequence[Sequence[float]]
"""[epoch, share] of each probe."""


@dataclass(frozen=True, kw_only=True)
class MethodMarks:
    """What is drawn of a method; scores and curves are shares, 0 to 1, one for each seed."""

    label: str
    scores: Mapping[str, Sequence[float]]
    """Kind of score → scores."""
    curves: Sequence[Curve]


def draw_methods(
    methods: Sequence[MethodMarks],
    *,
    kinds: Sequence[str],
    untrained: Mapping[str, float],
    curve_of: str,
) -> Figure:
    """A panel of points for each kind of score, and one of curves over the epochs.

    Args:
      kinds: of scores, a panel each.
      untrained: kind of score → the untrained encoder's, drawn as a dotted line.
      curve_of: what the curves are, the last panel's title; it is left out if there are none.
    """
    has_curves = any(method.curves for method in methods)
    many = len(kinds) + has_curves
    height = max(_LEAST_HEIGHT, 1.2 + _ROW_HEIGHT * len(methods))
    figure = Figure(figsize=(_PANEL_WIDTH * max(1, many), height), layout="constrained")
    panels = figure.subplots(1, max(1, many), squeeze=False)[0]
    for axes, kind in zip(panels, kinds, strict=False):
        _draw_scores(axes, methods, kind, untrained.get(kind))
    if has_curves:
        _draw_curves(panels[-1], methods, curve_of)
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25, linewidth=0.6)
    return figure


def _draw_scores(
    axes: Axes, methods: Sequence[MethodMarks], kind: str, untrained: float | None
) -> None:
    """A row for each method, the first on top: a point a seed, a bar at their mean."""
    places = list(range(len(methods) - 1, -1, -1))
    for place, (number, method) in zip(places, enumerate(methods), strict=True):
        scores = [100 * score for score in method.scores.get(kind, ())]
        if not scores:
            axes.text(
                0.02, place, "no score", transform=axes.get_yaxis_transform(), fontsize=8,
                color="0.45", va="center",
            )  # fmt: skip
            continue
        axes.plot(scores, [place] * len(scores), "o", color=color_of(number), alpha=0.6, ms=5)
        axes.plot([mean(scores)], [place], "|", color=color_of(number), ms=16, mew=2.4)
    if untrained is not None:
        axes.axvline(100 * untrained, color="0.35", linestyle=":", linewidth=1.2)
        axes.text(
            100 * untrained, 1.0, "untrained", transform=axes.get_xaxis_transform(), fontsize=8,
            color="0.35", ha="left", va="bottom",
        )  # fmt: skip
    axes.set_yticks(places, [method.label for method in methods])
    axes.set(xlabel=f"{kind}, %", ylim=(-0.6, len(methods) - 0.4))


def _draw_curves(axes: Axes, methods: Sequence[MethodMarks], title: str) -> None:
    """A line for each method, the mean of its seeds, within a band from lowest to highest."""
    for number, method in enumerate(methods):
        epochs, means, lows, highs = summarize(method.curves)
        if not epochs:
            continue
        color = color_of(number)
        axes.fill_between(epochs, lows, highs, color=color, alpha=0.15, linewidth=0)
        axes.plot(
            epochs, means, color=color, linestyle=style_of(number), marker="o", markersize=3.5,
            linewidth=1.6, label=method.label,
        )  # fmt: skip
    axes.set(xlabel="epoch", ylabel=f"{title}, %")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.legend(frameon=False, fontsize=8.5, loc="center left", bbox_to_anchor=(1, 0.5))


def summarize(
    curves: Sequence[Curve],
) -> tuple[list[float], list[float], list[float], list[float]]:
    """Epochs (or steps) that all seeds have; mean, lowest and highest value there, in per cent."""
    found = [{epoch: 100 * value for epoch, value in curve} for curve in curves if curve]
    if not found:
        return [], [], [], []
    epochs = sorted(set.intersection(*(set(curve) for curve in found)))
    values = [[curve[epoch] for curve in found] for epoch in epochs]
    return epochs, [mean(v) for v in values], [min(v) for v in values], [max(v) for v in values]
