"""Draws the curves of a run: the loss and its two terms, and the probes, over the steps."""

from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

History = Mapping[str, Mapping[int, float]]


def draw_curves(history: History, *, redundancy_weight: float, title: str, file: Path) -> None:
    """Writes a PNG with the loss and its weighted terms on the left, the probes on the right.

    On the right is kNN if there are labels; otherwise RankMe, alignment and uniformity.

    Args:
      history: metric name → step → value, as `tracker.read_history` gives it.
      redundancy_weight: λ, which weighs the off-diagonal term as it enters the loss.
    """
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    figure.suptitle(title)
    left, right = figure.subfigures(1, 2, squeeze=False)[0]
    _draw_loss(left.subplots(), history, redundancy_weight)
    if "knn/top1" in history:
        _draw_knn(right.subplots(), history["knn/top1"])
    else:
        _draw_spread(right, history)
    for axes in figure.get_axes():
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    figure.savefig(file, dpi=120)


def _draw_loss(axes: Axes, history: History, redundancy_weight: float) -> None:
    """The loss, and its terms if it has any; the axis is logarithmic if all are positive."""
    on_diagonal, off_diagonal = (
        history.get(f"train/{name}", {}) for name in ("on_diagonal", "off_diagonal")
    )
    redundancy = {s: redundancy_weight * v for s, v in off_diagonal.items()}
    curves = [
        (history["train/loss"], "loss", "black"),
        (on_diagonal, "invariance: on-diagonal term", "tab:blue"),
        (redundancy, "redundancy reduction: λ × off-diagonal term", "tab:orange"),
    ]
    for points, label, color in curves:
        if points:
            # Of a run that was logged once there is no line to be seen.
            _draw(axes, points, label, color, marker="o" if len(points) == 1 else "")
    axes.set(xlabel="step", title="training")
    if all(value > 0 for points, _, _ in curves for value in points.values()):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:.0f}")
        axes.yaxis.set_minor_formatter("{x:.0f}")
    axes.legend(frameon=False)


def _draw_knn(axes: Axes, points: Mapping[int, float]) -> None:
    percent = {step: 100 * value for step, value in points.items()}
    _draw(axes, percent, "kNN", "tab:green", marker="o")
    axes.set(xlabel="step", ylabel="top-1 on held-out images, %", title="kNN")


def _draw_spread(figure: SubFigure, history: History) -> None:
    """The measures that need no labels, each in its own panel, as their scales differ."""
    rows = [
        (name, label, color)
        for name, label, color in (
            ("probe/rankme", "RankMe", "tab:green"),
            ("probe/alignment", "alignment", "tab:purple"),
            ("probe/uniformity", "uniformity", "tab:brown"),
        )
        if name in history
    ]
    panels = figure.subplots(len(rows), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, label, color) in zip(panels, rows, strict=True):
        _draw(axes, history[name], label, color, marker="o")
        axes.set(ylabel=label)
    panels[0].set(title="representations")
    panels[-1].set(xlabel="step")
    figure.align_ylabels()


def _draw(
    axes: Axes, points: Mapping[int, float], label: str, color: str, marker: str = ""
) -> None:
    axes.plot(list(points), list(points.values()), label=label, color=color, marker=marker)
