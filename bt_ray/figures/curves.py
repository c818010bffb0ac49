"""The curves of a run: the two terms of the loss, and kNN or RankMe over the epochs."""

from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

History = Mapping[str, Mapping[int, float]]


def draw_curves(history: History, *, redundancy_weight: float, title: str, file: Path) -> None:
    """Writes a PNG with the loss and its weighted terms on the left, the probe on the right.

    Args:
      history: metric name → step → value, as `tracker.read_history` gives it.
      redundancy_weight: λ, which weighs the redundancy term as it enters the loss.
    """
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    figure.suptitle(title)
    _draw(left, history["train/loss"], "loss", "black")
    _draw(left, history["train/on_diagonal"], "invariance: Σ(1 − Cᵢᵢ)²", "tab:blue")
    redundancy = {s: redundancy_weight * v for s, v in history["train/off_diagonal"].items()}
    _draw(left, redundancy, "redundancy reduction: λ Σ Cᵢⱼ²", "tab:orange")
    left.set(xlabel="step", yscale="log", title="training")
    left.yaxis.set_major_formatter("{x:.0f}")
    left.yaxis.set_minor_formatter("{x:.0f}")
    left.legend(frameon=False)
    if "knn/top1" in history:
        percent = {step: 100 * value for step, value in history["knn/top1"].items()}
        _draw(right, percent, "kNN", "tab:green", marker="o")
        right.set(xlabel="step", ylabel="top-1 on held-out images, %", title="kNN")
    else:
        _draw(right, history["probe/rankme"], "RankMe", "tab:green", marker="o")
        right.set(xlabel="step", ylabel="effective rank", title="RankMe")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    figure.savefig(file, dpi=120)


def _draw(
    axes: Axes, points: Mapping[int, float], label: str, color: str, marker: str = ""
) -> None:
    axes.plot(list(points), list(points.values()), label=label, color=color, marker=marker)
