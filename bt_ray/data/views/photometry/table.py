"""What photometry does to each view, as a table of numbers: all that a device needs to be told."""

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from bt_ray.config.data import COLOURS
from bt_ray.data.views.draw import CONTRAST, HUE, SATURATION, ViewParameters
from bt_ray.data.views.reference import extended_box

NO_CHANGE = -1
NEVER = 1 << 16
"""A threshold of solarization that no level reaches."""
_LEVELS_OF_SETTINGS = 255


class Column(IntEnum):
    """The columns of the table."""

    FIRST_CHANGE = 0
    """The first four columns are the changes of the colour jitter (`draw.BRIGHTNESS`, …) in the
    order in which they are made; NO_CHANGE where a view is not changed."""
    CONTRAST_AT = 4
    """Which of the four is the contrast's; NO_CHANGE without one."""
    BRIGHTNESS = 5
    CONTRAST = 6
    SATURATION = 7
    HUE = 8
    """Shift of the hue in levels: the highest one is a turn."""
    GRAYSCALE = 9
    """1 or 0."""
    BLUR_REACH = 10
    """Pixels to each side that the box filter takes in; 0 where a view is not blurred."""
    BLUR_EDGE = 11
    """Weight of the two outermost pixels; 1 where a view is not blurred."""
    BLUR_INNER = 12
    """Weight of each of the others."""
    SOLARIZE_FROM = 13
    """Levels from this one on are inverted; NEVER where a view is not solarized."""


NUM_COLUMNS = max(Column) + 1
Table = NDArray[np.float32]


def tabulate(
    parameters: ViewParameters,
    solarize_threshold: int,
    *,
    channels: int = COLOURS,
    highest_level: int = _LEVELS_OF_SETTINGS,
) -> Table:
    """The parameters of n views as float32 (n, NUM_COLUMNS), by `Column`.

    Views of other than three channels keep saturation, hue and colours.

    Args:
      solarize_threshold: of 255 levels.
      highest_level: of the views, 255 or 65,535.
    """
    n = len(parameters.jitter)
    table = np.zeros((n, NUM_COLUMNS), np.float32)
    changes = np.where(parameters.jitter[:, None], parameters.jitter_order, NO_CHANGE)
    shift = np.trunc(parameters.hue * np.float32(highest_level))
    changes[(changes == HUE) & (parameters.hue == 0)[:, None]] = NO_CHANGE
    if channels != COLOURS:
        changes[(changes == SATURATION) | (changes == HUE)] = NO_CHANGE
    table[:, :4] = changes
    is_contrast = changes == CONTRAST
    table[:, Column.CONTRAST_AT] = np.where(
        is_contrast.any(axis=1), is_contrast.argmax(axis=1), NO_CHANGE
    )
    table[:, Column.BRIGHTNESS] = parameters.brightness
    table[:, Column.CONTRAST] = parameters.contrast
    table[:, Column.SATURATION] = parameters.saturation
    table[:, Column.HUE] = shift
    table[:, Column.GRAYSCALE] = parameters.grayscale & (channels == COLOURS)
    table[:, Column.BLUR_EDGE] = 1
    for row in np.flatnonzero(parameters.blur_sigma_px > 0):
        box = extended_box(float(parameters.blur_sigma_px[row]))
        middle = len(box) // 2
        table[row, Column.BLUR_REACH] = middle
        table[row, Column.BLUR_EDGE], table[row, Column.BLUR_INNER] = box[0], box[middle]
    threshold = solarize_threshold * (highest_level // _LEVELS_OF_SETTINGS)
    table[:, Column.SOLARIZE_FROM] = np.where(parameters.solarize, threshold, NEVER)
    return table
