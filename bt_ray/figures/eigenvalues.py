"""Draws the spectrum of the representations, before and after training."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

_FLOOR = 1e-9  # below, a float32 representation's eigenvalues are its rounding
_COLORS = ("tab:gray", "tab:green")


def draw_eigenvalues(
    spectra: Mapping[int, NDArray[np.float32]],
    *,
    rank_me: Mapping[int, float],
    title: str,
    file: Path,
) -> None:
    """Writes a PNG with the covariance's eigenvalues in order of size, one line for each step.

    Args:
      spectra: step → eigenvalues (F,), descending, sum 1.
      rank_me: step → RankMe of the same representations. It may rise while the curve steepens:
        RankMe counts the mean as one more direction, and the covariance leaves the mean out.
    """
    figure = Figure(figsize=(6, 3.8), layout="constrained")
    axes = figure.subplots()
    figure.suptitle(title)
    for color, (step, spectrum) in zip(_COLORS, spectra.items(), strict=False):
        seen = spectrum[spectrum > _FLOOR]
        label = f"after {step:,} steps: RankMe {rank_me[step]:.1f}"
        axes.plot(np.arange(1, len(seen) + 1), seen, label=label, color=color)
    axes.set(
        xlabel="eigenvalue, in order of size",
        ylabel="share of the variance",
        yscale="log",
        title="spectrum of the representations, mean removed",
    )
    axes.legend(frameon=False, title="RankMe: mean included")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    figure.savefig(file, dpi=120)
