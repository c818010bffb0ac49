"""Draws the cross-correlation matrix of the embeddings, before and after training."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray


def draw_correlation(
    matrices: Mapping[int, NDArray[np.float32]], *, num_dimensions: int, title: str, file: Path
) -> None:
    """Writes a PNG with a heat map of C for each step, side by side, all coloured from −1 to 1.

    Args:
      matrices: step → C (d, d) of the embeddings' first d dimensions.
      num_dimensions: D, at least d.
    """
    width = 1.4 + 4 * len(matrices)
    figure = Figure(figsize=(width, 4.4), layout="constrained")
    panels = figure.subplots(1, len(matrices), squeeze=False)[0]
    shown = len(next(iter(matrices.values())))
    which = "" if shown == num_dimensions else f"first {shown} of {num_dimensions} dimensions"
    figure.suptitle(" · ".join(filter(None, (title, "cross-correlation of two views", which))))
    for panel, (step, matrix) in zip(panels, matrices.items(), strict=True):
        image = panel.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
        panel.set(title=f"after {step:,} steps", xlabel="dimension of view B")
        panel.spines[:].set_visible(False)
    panels[0].set(ylabel="dimension of view A")
    figure.colorbar(image, ax=list(panels), label="correlation Cᵢⱼ", shrink=0.8)
    figure.savefig(file, dpi=120)
