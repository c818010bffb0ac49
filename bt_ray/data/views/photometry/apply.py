"""Photometry by whatever is fastest on the views' device."""

import torch
from torch import Tensor

from bt_ray.config.data import COLOURS
from bt_ray.data.views.photometry import fused
from bt_ray.data.views.photometry.eager import apply_eager
from bt_ray.data.views.photometry.table import Table


def apply_photometry(levels: Tensor, drawn: Table, table: Tensor | None = None) -> Tensor:
    """Views after colour jitter, greyscale, blur and solarization.

    Triton's kernels do it on a GPU where they run, for views of 8-bit RGB; torch's operations do
    it elsewhere, and for all others.

    Args:
      levels: uint8 or uint16 (n, c, h, w), cropped and flipped.
      drawn: float32 (n, NUM_COLUMNS), what was drawn for them, by `tabulate`.
      table: the same on the views' device; none: it is copied there, and waited for.
    Returns: the same type and shape; `levels` is left as it is.
    """
    if table is None:
        table = torch.from_numpy(drawn).to(levels.device)
    is_rgb = levels.dtype == torch.uint8 and levels.shape[1] == COLOURS
    if is_rgb and fused.is_usable(levels.device):
        return fused.apply_fused(levels, table)
    return apply_eager(levels, drawn, table)
