"""Photometry of a whole batch of views by torch's own operations, on any device.

These are the operations of `views.reference.photometry`, in the same order, vectorised. Every
operation works on the views alone that were drawn for it, and ends in whole levels, as Pillow's do;
without that rounding the difference to the reference would be five times as large.

Views may have any number of channels, of 8 or 16 bits. Sums over a view's levels that float32
cannot hold are made in float64, which is exact: a view comes out the same alone and in any batch.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bt_ray.config.data import COLOURS
from bt_ray.data.views.draw import BRIGHTNESS, CONTRAST, HUE, SATURATION
from bt_ray.data.views.photometry.table import NEVER, Column, Table
from bt_ray.data.views.reference import BOX_PASSES

Operation = Callable[[Tensor, Tensor, int], Tensor]
"""Views, their rows of the table and the highest level to views."""
_HIGHEST = {torch.uint8: 255, torch.uint16: 65535}


def apply_eager(levels: Tensor, drawn: Table, table: Tensor) -> Tensor:
    """Views after colour jitter, greyscale, blur and solarization.

    Args:
      levels: uint8 or uint16 (n, c, h, w), cropped and flipped.
      drawn: (n, NUM_COLUMNS), by `table.tabulate`.
      table: the same on the views' device.
    Returns: the same type and shape; `levels` is left as it is.
    """
    highest = _HIGHEST[levels.dtype]
    x, most_reach = levels.float(), int(drawn[:, Column.BLUR_REACH].max(initial=0))
    places = [Column.FIRST_CHANGE + position for position in range(4)]
    steps: list[tuple[int, float, float, Operation]] = [
        (place, change, change + 1, operation)
        for place in places
        for change, operation in _CHANGES.items()
    ]
    steps += [
        (Column.GRAYSCALE, 1, 2, _to_gray),
        (Column.BLUR_REACH, 1, np.inf, lambda part, rows, _: _blur(part, rows, most_reach)),
        (Column.SOLARIZE_FROM, 0, NEVER, _solarize),
    ]
    # Who is changed is known here, and the device is not asked: it sorts the rows by what was drawn
    # for them, and the host tells where in that order a step's rows begin and end.
    values, order = np.sort(drawn, axis=0), table.argsort(dim=0)
    for column, low, high, operation in steps:
        start, stop = np.searchsorted(values[:, column], (low, high))
        if stop > start:
            rows = order[start:stop, column]
            x[rows] = operation(x[rows], table[rows], highest)
    return x.to(levels.dtype)


def _column(table: Tensor, column: Column) -> Tensor:
    return table[:, column].view(-1, 1, 1, 1)


def _brighten(x: Tensor, table: Tensor, highest: int) -> Tensor:
    black = torch.zeros((), device=x.device)
    return _blend(black, x, _column(table, Column.BRIGHTNESS), highest)


def _change_contrast(x: Tensor, table: Tensor, highest: int) -> Tensor:
    """About the mean of the luma, or of all channels where they are no colours."""
    is_rgb = x.shape[1] == COLOURS and highest == _HIGHEST[torch.uint8]
    each = _luma(x) if x.shape[1] == COLOURS else x
    mean = each.mean(dim=(2, 3), keepdim=True) if is_rgb else _exact_mean(each)
    return _blend(torch.floor(mean + 0.5), x, _column(table, Column.CONTRAST), highest)


def _exact_mean(x: Tensor) -> Tensor:
    """The mean of each view's levels, (n, 1, 1, 1)."""
    return x.mean(dim=(1, 2, 3), keepdim=True, dtype=torch.float64).float()


def _saturate(x: Tensor, table: Tensor, highest: int) -> Tensor:
    return _blend(_luma(x), x, _column(table, Column.SATURATION), highest)


def _to_gray(x: Tensor, table: Tensor, highest: int) -> Tensor:
    return _luma(x).expand_as(x)


def _solarize(x: Tensor, table: Tensor, highest: int) -> Tensor:
    return torch.where(x < _column(table, Column.SOLARIZE_FROM), x, highest - x)


def _blend(degenerate: Tensor, x: Tensor, factor: Tensor, highest: int) -> Tensor:
    """Pillow's Image.blend, which cuts the fraction off."""
    return torch.floor((degenerate + factor * (x - degenerate)).clamp_(0, highest))


def _luma(x: Tensor) -> Tensor:
    """Pillow's luma (ITU-R 601-2, fixed point), shape (n, 1, h, w)."""
    red, green, blue = x.unbind(1)
    return torch.floor((red * 19595 + green * 38470 + blue * 7471 + 32768) / 65536).unsqueeze(1)


def _shift_hue(x: Tensor, table: Tensor, highest: int) -> Tensor:
    """RGB → HSV in whole levels, as Pillow has it, hue shifted with wrap-around, → RGB."""
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
    hue = torch.floor(torch.remainder(sixth / 6 + 1, 1) * highest)
    hue = torch.where(spread == 0, 0, hue)
    saturation = torch.floor(spread / value.clamp(min=1) * highest) / highest

    shift = _column(table, Column.HUE).squeeze(1)
    place = torch.remainder(hue + shift, highest + 1) * (6 / highest)
    # Each channel of HSV → RGB is v·(1 − s·weight), weight a clipped triangle wave of the hue.
    triangle = torch.stack(
        [torch.remainder(place + offset, 6) for offset in (5.0, 3.0, 1.0)], dim=1
    )
    weight = torch.minimum(triangle, 4 - triangle).clamp_(0, 1)
    return torch.round(value.unsqueeze(1) * (1 - saturation.unsqueeze(1) * weight))


_CHANGES: dict[int, Operation] = {
    BRIGHTNESS: _brighten, CONTRAST: _change_contrast, SATURATION: _saturate, HUE: _shift_hue
}  # fmt: skip


def _blur(x: Tensor, table: Tensor, most_reach: int) -> Tensor:
    """Pillow's Gaussian blur: passes of an extended box, in whole levels, along each axis.

    One filter for all passes would be another at the border, where every pass repeats pixels.
    """
    reach, edge, inner = (
        _column(table, c) for c in (Column.BLUR_REACH, Column.BLUR_EDGE, Column.BLUR_INNER)
    )
    tap = torch.arange(-most_reach, most_reach + 1, device=x.device, dtype=torch.float32).abs()
    weights = torch.where(tap < reach, inner, torch.where(tap == reach, edge, 0))
    for axis in (-1, -2):
        for _ in range(BOX_PASSES):
            x = torch.round(_filter_along(x, weights, most_reach, axis))
    return x


def _filter_along(x: Tensor, weights: Tensor, reach: int, axis: int) -> Tensor:
    """Each view filtered along one axis; its border pixels are repeated outwards."""
    size = x.shape[axis]
    sides = (reach, reach, 0, 0) if axis == -1 else (0, 0, reach, reach)
    padded = functional.pad(x, sides, mode="replicate")
    filtered = torch.zeros_like(x)
    for tap in range(2 * reach + 1):
        filtered += padded.narrow(axis, tap, size) * weights[..., tap : tap + 1]
    return filtered
