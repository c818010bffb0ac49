"""What was trained on, in sixteen digits: two runs saw the same data if theirs are equal.

The digest is a sum over rows, so that it depends neither on how many workers shared the rows nor
on the order in which their sums were added; and it can be continued by a later run.
"""

from collections.abc import Sequence
from dataclasses import fields

import numpy as np
from numpy.typing import NDArray

from bt_ray.data.views.draw import ViewParameters, mix

MODULUS = 2**64
_SINCE_0_2 = ("flip_vertically", "quarter_turns", "rotation_degrees")
"""Parameters that count where they are not 0 only: without them a digest is version 0.1's."""


def digest_rows(
    steps: NDArray[np.int64],
    slots: NDArray[np.int64],
    samples: NDArray[np.int64],
    views: Sequence[ViewParameters],
) -> NDArray[np.uint64]:
    """A number for each row: of its step, slot, sample and every parameter of its views.

    Args:
      steps, slots, samples: (n,).
      views: parameters of each view of these n samples, smaller ones last.
    Returns: (n,), to be summed modulo 2⁶⁴.
    """
    state = np.zeros(len(steps), np.uint64)
    for column in (steps, slots, samples, *(c for view in views for c in _columns(view))):
        state = mix(state ^ _bits(column))
    later = [getattr(view, name) for view in views for name in _SINCE_0_2]
    for number, column in enumerate(later, start=1):
        tagged = mix(state ^ mix(np.uint64(number) + (_bits(column) << np.uint64(8))))
        state = np.where(column != 0, tagged, state)
    return state


def to_text(digest: int) -> str:
    """The digest as people compare it: sixteen hexadecimal digits."""
    return f"{digest % MODULUS:016x}"


def _columns(parameters: ViewParameters) -> list[NDArray[np.generic]]:
    names = [field.name for field in fields(parameters) if field.name not in _SINCE_0_2]
    values = [getattr(parameters, name) for name in names]
    return [column for value in values for column in value.reshape(len(value), -1).T]


def _bits(column: NDArray[np.generic]) -> NDArray[np.uint64]:
    """Whole numbers as they are, others by their representation."""
    if np.issubdtype(column.dtype, np.floating):
        return np.ascontiguousarray(column, np.float32).view(np.uint32).astype(np.uint64)
    return column.astype(np.int64).astype(np.uint64)
