"""Draws how detectors rose: AP over the steps, of encoders side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bt_ray.figures.comparison import color_of, style_of
from bt_ray.figures.methods import Curve, summarize

_PANEL_SIZE = (4.6, 3.4)
_TITLES = {
    "ap": "AP",
    "ap50": "AP50",
    "ap75": "AP75",
    "voc_ap50": "AP50, VOC 2010",
    "voc07_ap": "AP, VOC 2007",
    "voc07_ap50": "AP50, VOC 2007",
    "voc07_ap75": "AP75, VOC 2007",
    "mask_ap": "AP of masks",
    "mask_ap50": "AP50 of masks",
    "mask_ap75": "AP75 of masks",
}


@dataclass(frozen=True, kw_only=True)
class DetectionMarks:
    """What is drawn of the detectors that began with one encoder, trained with several seeds."""

    label: str
    curves: Mapping[str, Sequence[Curve]]
    """Measure, such as ap50 → one curve a seed, of [step, share, 0 to 1]."""


def draw_detection(
    encoders: Sequence[DetectionMarks], *, measures: Sequence[str] = ("ap50", "ap")
) -> Figure:
    """A panel for each measure: a line for each encoder, the mean of its seeds, in a band.

    The band reaches from the lowest seed to the highest; points are at steps that all seeds have.
    """
    width, height = _PANEL_SIZE
    figure = Figure(figsize=(width * len(measures), height), layout="constrained")
    panels = figure.subplots(1, len(measures), squeeze=False)[0]
    for axes, measure in zip(panels, measures, strict=True):
        _draw(axes, encoders, measure)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8.5)
    return figure


def _draw(axes: Axes, encoders: Sequence[DetectionMarks], measure: str) -> None:
    for number, encoder in enumerate(encoders):
        color = color_of(number)
        curves = encoder.curves.get(measure, ())
        steps, means, lows, highs = summarize(curves)
        if len(curves) > 1:
            axes.fill_between(steps, lows, highs, color=color, alpha=0.15, linewidth=0)
        axes.plot(
            steps, means, color=color, linestyle=style_of(number), marker="o", markersize=3.5,
            linewidth=1.6, label=encoder.label,
        )  # fmt: skip
    axes.set(xlabel="step", ylabel=f"{_TITLES[measure]}, %")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
