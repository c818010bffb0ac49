"""Photometry by whatever is fastest on the views' device."""

from torch import Tensor

from bt_ray.config import ViewSettings
from bt_ray.data.views.photometry import fused
from bt_ray.data.views.photometry.eager import apply_eager
from bt_ray.data.views.photometry.table import most_reach


def apply_photometry(levels: Tensor, table: Tensor, settings: ViewSettings) -> Tensor:
    """Views after colour jitter, greyscale, blur and solarization.

    Triton's kernels do it on a GPU where they run, torch's operations elsewhere.

    Args:
      levels: uint8 (n, 3, h, w), cropped and flipped.
      table: float32 (n, NUM_COLUMNS), on the same device: what was drawn, by `tabulate`.
      settings: by which it was drawn.
    Returns: uint8 (n, 3, h, w); `levels` is left as it is.
    """
    if fused.is_usable(levels.device):
        return fused.apply_fused(levels, table)
    return apply_eager(levels, table, most_reach(settings))
