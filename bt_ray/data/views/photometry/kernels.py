"""Triton kernels of photometry. Imported only where Triton is.

Each program works on a block of one view, so that what was drawn for the view decides by branches
what is done. The arithmetic is `eager`'s, operation by operation: divisions are rounded as IEEE
wants, and multiplications are not fused with additions (the caller asks for that).
"""
# Triton compiles functions without annotations.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

import triton
import triton.language as tl

from bt_ray.data.views import draw
from bt_ray.data.views.photometry.table import Column

_BRIGHTNESS = tl.constexpr(draw.BRIGHTNESS)
_CONTRAST = tl.constexpr(draw.CONTRAST)
_SATURATION = tl.constexpr(draw.SATURATION)
_HUE = tl.constexpr(draw.HUE)

_FIRST_CHANGE = tl.constexpr(int(Column.FIRST_CHANGE))
_CONTRAST_AT = tl.constexpr(int(Column.CONTRAST_AT))
_BRIGHTNESS_FACTOR = tl.constexpr(int(Column.BRIGHTNESS))
_CONTRAST_FACTOR = tl.constexpr(int(Column.CONTRAST))
_SATURATION_FACTOR = tl.constexpr(int(Column.SATURATION))
_HUE_SHIFT = tl.constexpr(int(Column.HUE))
_GRAYSCALE = tl.constexpr(int(Column.GRAYSCALE))
_BLUR_REACH = tl.constexpr(int(Column.BLUR_REACH))
_BLUR_EDGE = tl.constexpr(int(Column.BLUR_EDGE))
_BLUR_INNER = tl.constexpr(int(Column.BLUR_INNER))
_SOLARIZE_FROM = tl.constexpr(int(Column.SOLARIZE_FROM))

_ROUNDING = tl.constexpr(12582912.0)
"""1.5·2²³: added to a small float32 and taken away again, it leaves the nearest whole number, the
even one of two that are as near."""


@triton.jit
def luma_sums(levels, table, sums, num_pixels, columns, block_size: tl.constexpr):
    """Sums of luma over blocks of pixels, at the place in the jitter where the contrast changes.

    Grid: (blocks of a view, views). Views without a change of contrast are left out.

    Args:
      levels: uint8 (n, 3, pixels).
      table: float32 (n, columns).
      sums: int32 (n, blocks), written.
    """
    block, view = tl.program_id(0), tl.program_id(1)
    row = table + view * columns
    contrast_at = tl.load(row + _CONTRAST_AT).to(tl.int32)
    if contrast_at >= 0:
        pixel = block * block_size + tl.arange(0, block_size)
        is_inside = pixel < num_pixels
        first = levels + view.to(tl.int64) * (3 * num_pixels)
        red, green, blue = _load(first, pixel, num_pixels, is_inside)
        position = 0
        while position < contrast_at:
            change = tl.load(row + _FIRST_CHANGE + position).to(tl.int32)
            red, green, blue = _change(red, green, blue, change, row, 0.0)
            position += 1
        luma = tl.where(is_inside, _luma(red, green, blue), 0.0)
        total = tl.sum(luma.to(tl.int32), axis=0)
        tl.store(sums + view * tl.num_programs(0) + block, total)


@triton.jit
def jitter(
    levels, table, sums, out, num_pixels, columns, block_size: tl.constexpr, num_sums: tl.constexpr
):  # fmt: skip
    """Colour jitter and greyscale.

    Grid: (blocks of a view, views).

    Args:
      levels: uint8 (n, 3, pixels).
      table: float32 (n, columns).
      sums: int32 (n, blocks), by `luma_sums`.
      out: uint8 (n, 3, pixels), written.
      num_sums: power of two, at least the number of blocks.
    """
    block, view = tl.program_id(0), tl.program_id(1)
    row = table + view * columns
    mean = 0.0
    if tl.load(row + _CONTRAST_AT) >= 0:
        num_blocks = tl.num_programs(0)
        place = tl.arange(0, num_sums)
        parts = tl.load(sums + view * num_blocks + place, mask=place < num_blocks, other=0)
        total = tl.sum(parts.to(tl.int64), axis=0)
        mean = ((2 * total + num_pixels) // (2 * num_pixels)).to(tl.float32)
    pixel = block * block_size + tl.arange(0, block_size)
    is_inside = pixel < num_pixels
    offset = view.to(tl.int64) * (3 * num_pixels)
    red, green, blue = _load(levels + offset, pixel, num_pixels, is_inside)
    for position in range(4):
        change = tl.load(row + _FIRST_CHANGE + position).to(tl.int32)
        red, green, blue = _change(red, green, blue, change, row, mean)
    if tl.load(row + _GRAYSCALE) > 0:
        luma = _luma(red, green, blue)
        red, green, blue = luma, luma, luma
    to = out + offset + pixel
    tl.store(to, red.to(tl.uint8), mask=is_inside)
    tl.store(to + num_pixels, green.to(tl.uint8), mask=is_inside)
    tl.store(to + 2 * num_pixels, blue.to(tl.uint8), mask=is_inside)


@triton.jit
def box_pass(
    levels, table, out, num_levels, size, stride, columns,
    solarizes: tl.constexpr, block_size: tl.constexpr,
):  # fmt: skip
    """One pass of each view's box filter along one axis, rounded; then solarization if wanted.

    Grid: (blocks of a view, views). Border pixels are repeated outwards.

    Args:
      levels: uint8 (n, num_levels).
      table: float32 (n, columns).
      out: uint8 (n, num_levels), written.
      size, stride: of the axis.
    """
    view = tl.program_id(1)
    row = table + view * columns
    place = tl.program_id(0) * block_size + tl.arange(0, block_size)
    is_inside = place < num_levels
    offset = view.to(tl.int64) * num_levels
    reach = tl.load(row + _BLUR_REACH).to(tl.int32)
    edge, inner = tl.load(row + _BLUR_EDGE), tl.load(row + _BLUR_INNER)
    along = (place // stride) % size
    start = place - along * stride
    filtered = tl.zeros([block_size], tl.float32)
    tap = -reach
    while tap <= reach:
        at = tl.minimum(tl.maximum(along + tap, 0), size - 1)
        level = tl.load(levels + offset + start + at * stride, mask=is_inside, other=0)
        weight = tl.where((tap == reach) | (tap == -reach), edge, inner)
        filtered += level.to(tl.float32) * weight
        tap += 1
    filtered = (filtered + _ROUNDING) - _ROUNDING
    if solarizes:
        threshold = tl.load(row + _SOLARIZE_FROM)
        filtered = tl.where(filtered < threshold, filtered, 255.0 - filtered)
    tl.store(out + offset + place, filtered.to(tl.uint8), mask=is_inside)


@triton.jit
def _load(first, pixel, num_pixels, is_inside):
    red = tl.load(first + pixel, mask=is_inside, other=0)
    green = tl.load(first + num_pixels + pixel, mask=is_inside, other=0)
    blue = tl.load(first + 2 * num_pixels + pixel, mask=is_inside, other=0)
    return red.to(tl.float32), green.to(tl.float32), blue.to(tl.float32)


@triton.jit
def _change(red, green, blue, change, row, mean):
    """One change of the jitter; `mean`: of luma, rounded, for the contrast."""
    if change == _BRIGHTNESS:
        factor = tl.load(row + _BRIGHTNESS_FACTOR)
        red, green, blue = _blend(0.0, red, green, blue, factor)
    elif change == _CONTRAST:
        factor = tl.load(row + _CONTRAST_FACTOR)
        red, green, blue = _blend(mean, red, green, blue, factor)
    elif change == _SATURATION:
        factor = tl.load(row + _SATURATION_FACTOR)
        red, green, blue = _blend(_luma(red, green, blue), red, green, blue, factor)
    elif change == _HUE:
        shift = tl.load(row + _HUE_SHIFT)
        red, green, blue = _shift_hue(red, green, blue, shift)
    return red, green, blue


@triton.jit
def _blend(degenerate, red, green, blue, factor):
    """Pillow's Image.blend, which cuts the fraction off."""
    red = degenerate + factor * (red - degenerate)
    green = degenerate + factor * (green - degenerate)
    blue = degenerate + factor * (blue - degenerate)
    return _cut(red), _cut(green), _cut(blue)


@triton.jit
def _cut(level):
    return tl.floor(tl.minimum(tl.maximum(level, 0.0), 255.0))


@triton.jit
def _luma(red, green, blue):
    """Pillow's 8-bit luma (ITU-R 601-2, fixed point)."""
    # Every number on the way is whole and below 2²⁴.
    return tl.floor((red * 19595.0 + green * 38470.0 + blue * 7471.0 + 32768.0) * (1 / 65536))


@triton.jit
def _shift_hue(red, green, blue, shift):
    """RGB → Pillow's 8-bit HSV, hue shifted with wrap-around, → RGB."""
    value = tl.maximum(tl.maximum(red, green), blue)
    spread = value - tl.minimum(tl.minimum(red, green), blue)
    safe = tl.maximum(spread, 1.0)
    from_red, from_green, from_blue = value - red, value - green, value - blue
    of_green = 2.0 + tl.div_rn(from_red - from_blue, safe)
    of_blue = 4.0 + tl.div_rn(from_green - from_red, safe)
    of_red = tl.div_rn(from_blue - from_green, safe)
    sixth = tl.where(red == value, of_red, tl.where(green == value, of_green, of_blue))
    turn = tl.div_rn(sixth, 6.0) + 1.0
    hue = tl.floor((turn - tl.floor(turn)) * 255.0)
    hue = tl.where(spread == 0.0, 0.0, hue)
    saturation = tl.floor(tl.div_rn(spread, tl.maximum(value, 1.0)) * 255.0)
    saturation = tl.div_rn(saturation, 255.0)

    shifted = hue + shift
    place = (shifted - tl.floor(shifted * (1 / 256)) * 256.0) * (6.0 / 255.0)
    red = _channel(value, saturation, place + 5.0)
    green = _channel(value, saturation, place + 3.0)
    blue = _channel(value, saturation, place + 1.0)
    return red, green, blue


@triton.jit
def _channel(value, saturation, place):
    """HSV → RGB: v·(1 − s·weight), the weight a clipped triangle wave of the hue."""
    wave = tl.where(place >= 6.0, place - 6.0, place)
    wave = tl.where(wave >= 6.0, wave - 6.0, wave)
    weight = tl.minimum(tl.maximum(tl.minimum(wave, 4.0 - wave), 0.0), 1.0)
    level = value * (1.0 - saturation * weight)
    return (level + _ROUNDING) - _ROUNDING
