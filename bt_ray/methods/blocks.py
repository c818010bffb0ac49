"""Rows in blocks, so that what is computed of a block fits into memory."""

from torch import Tensor

_BLOCK_ELEMENTS = 2**24
"""Numbers that a block makes at most: 64 MB of float32."""


def blocks(rows: Tensor, num_columns: int) -> tuple[Tensor, ...]:
    """The rows (M, …) in consecutive blocks, of which each makes (block, `num_columns`) numbers."""
    return rows.split(max(1, _BLOCK_ELEMENTS // num_columns))
