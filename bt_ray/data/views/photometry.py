"""Photometry of a whole batch of views in one pass, on any device, as Pillow does it.

These are the operations of `reference.photometry`, in the same order, vectorised. Every operation
changes only the views that were drawn for it, and ends in whole 8-bit levels, as Pillow's do;
without that rounding the difference to the reference would be five times as large.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from bt_ray.data.views.draw import BRIGHTNESS, CONTRAST, HUE, SATURATION, ViewParameters
from bt_ray.data.views.reference import BOX_PASSES, extended_box


def apply_photometry(views: Tensor, parameters: ViewParameters, solarize_threshold: int) -> Tensor:
    """Views after colour jitter, greyscale, blur and solarization.

    Args:
      views: uint8 (n, 3, h, w), cropped and flipped.
      parameters: of these n views.
    Returns: float32 (n, 3, h, w) of whole levels from 0 to 255; `views` is left as it is.
    """
    x = views.float()
    device = views.device
    for position in range(4):
        for change in (BRIGHTNESS, CONTRAST, SATURATION, HUE):
            wanted = parameters.jitter & (parameters.jitter_order[:, position] == change)
            if change == HUE:
                wanted &= parameters.hue != 0
            rows = np.flatnonzero(wanted)
            if len(rows):
                index = torch.from_numpy(rows).to(device)
                x[index] = _change(x[index], change, parameters, rows)
    x = _where(x, parameters.grayscale, lambda part, _: _luma(part).expand_as(part))
    x = _where(x, parameters.blur_sigma_px > 0, lambda part, rows: _blur(
        part, parameters.blur_sigma_px[rows]))  # fmt: skip
    return _where(x, parameters.solarize, lambda part, _: torch.where(
        part < solarize_threshold, part, 255 - part))  # fmt: skip


def _where(
    x: Tensor, mask: NDArray[Any], operation: Callable[[Tensor, NDArray[Any]], Tensor]
) -> Tensor:
    rows = np.flatnonzero(mask)
    if len(rows):
        index = torch.from_numpy(rows).to(x.device)
        x[index] = operation(x[index], rows)
    return x


def _change(x: Tensor, change: int, parameters: ViewParameters, rows: NDArray[Any]) -> Tensor:
    def column(values: NDArray[Any]) -> Tensor:
        return torch.from_numpy(values[rows]).to(x.device).view(-1, 1, 1, 1)

    if change == BRIGHTNESS:
        return _blend(torch.zeros_like(x), x, column(parameters.brightness))
    if change == CONTRAST:
        mean = torch.floor(_luma(x).mean(dim=(2, 3), keepdim=True) + 0.5)
        return _blend(mean, x, column(parameters.contrast))
    if change == SATURATION:
        return _blend(_luma(x), x, column(parameters.saturation))
    return _shift_hue(x, column(parameters.hue))


def _blend(degenerate: Tensor, x: Tensor, factor: Tensor) -> Tensor:
    """Pillow's Image.blend, which cuts the fraction off."""
    return torch.floor((degenerate + factor * (x - degenerate)).clamp_(0, 255))


def _luma(x: Tensor) -> Tensor:
    """Pillow's 8-bit luma (ITU-R 601-2, fixed point), shape (n, 1, h, w)."""
    red, green, blue = x.unbind(1)
    return torch.floor((red * 19595 + green * 38470 + blue * 7471 + 32768) / 65536).unsqueeze(1)


def _shift_hue(x: Tensor, turns: Tensor) -> Tensor:
    """RGB → Pillow's 8-bit HSV, hue shifted with wrap-around, → RGB."""
    red, green, blue = x.unbind(1)
    value, lowest = x.amax(1), x.amin(1)
    spread = value - lowest
    safe = spread.clamp(min=1)
    from_red, from_green, from_blue = (value - c for c in (red, green, blue))
    sixth = torch.where(
        red == value,
        (from_blue - from_green) / safe,
        torch.where(
            green == value, 2 + (from_red - from_blue) / safe, 4 + (from_green - from_red) / safe
        ),
    )
    hue = torch.floor(torch.remainder(sixth / 6 + 1, 1) * 255)
    hue = torch.where(spread == 0, 0, hue)
    saturation = torch.floor(spread / value.clamp(min=1) * 255) / 255

    shift = torch.trunc(turns.squeeze(1) * 255)
    place = torch.remainder(hue + shift, 256) * (6 / 255)
    # Each channel of HSV → RGB is v·(1 − s·weight), weight a clipped triangle wave of the hue.
    triangle = torch.stack(
        [torch.remainder(place + offset, 6) for offset in (5.0, 3.0, 1.0)], dim=1
    )
    weight = torch.minimum(triangle, 4 - triangle).clamp_(0, 1)
    return torch.round(value.unsqueeze(1) * (1 - saturation.unsqueeze(1) * weight))


def _blur(x: Tensor, sigma_px: NDArray[Any]) -> Tensor:
    """Pillow's Gaussian blur: passes of an extended box, in whole levels, along each axis.

    One filter for all passes would be another at the border, where every pass repeats pixels.
    """
    boxes = [extended_box(float(sigma)) for sigma in sigma_px]
    reach = max(len(box) for box in boxes) // 2
    taps = np.stack([np.pad(box, reach - len(box) // 2) for box in boxes]).astype(np.float32)
    weights = torch.from_numpy(taps).to(x.device).view(len(boxes), 1, 1, 1, -1)
    for axis in (-1, -2):
        for _ in range(BOX_PASSES):
            x = torch.round(_filter_along(x, weights, reach, axis))
    return x


def _filter_along(x: Tensor, weights: Tensor, reach: int, axis: int) -> Tensor:
    """Each view filtered along one axis; its border pixels are repeated outwards."""
    size = x.shape[axis]
    sides = (reach, reach, 0, 0) if axis == -1 else (0, 0, reach, reach)
    padded = functional.pad(x, sides, mode="replicate")
    filtered = torch.zeros_like(x)
    for tap in range(2 * reach + 1):
        filtered += padded.narrow(axis, tap, size) * weights[..., tap]
    return filtered
