"""Draws how detectors rose: AP over the steps, of encoders side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bt_ray.detection.published import TITLES
from bt_ray.figures.comparison import color_of, style_of
from bt_ray.figures.methods import Curve, summarize

_PANEL_SIZE = (4.6, 3.4)


@dataclass(frozen=True, kw_only=True)
class DetectionMarks:
    """What is drawn of the detectors that began with one encoder, trained with several seeds."""

    label: str
    curves: Mapping[str, Sequence[Curve]]
    """Measure, such as ap50 → one curve a seed, of [step, share, 0 to 1]."""


_OTHERS = {"untrained": "before pretraining"}


def marks_of(
    curves: Mapping[str, Mapping[str, Sequence[Curve]]], encoder: str
) -> list[DetectionMarks]:
    """What is drawn of the curves that an evaluation's record keeps.

    Args:
      curves: whose weights the detectors began with, such as `untrained`, or "" for the encoder's
        own → measure → one curve a seed.
      encoder: what the encoder is called.
    """
    return [
        DetectionMarks(
            label=f"{encoder}, {_OTHERS.get(other, other)}" if other else encoder, curves=of_measure
        )
        for other, of_measure in curves.items()
    ]


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
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=2 * len(measures),
        frameon=False,
        fontsize=8.5,
    )
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
    axes.set(xlabel="step", ylabel=f"{TITLES[measure]}, %")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
