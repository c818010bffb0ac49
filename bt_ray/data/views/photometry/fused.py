"""Photometry of a whole batch of views by Triton's kernels: eight launches, on bytes.

    luma_sums → jitter → box_pass ×3 along rows → box_pass ×3 along columns, the last solarizes

Levels are whole after every operation, so that a byte loses nothing; arithmetic is float32.
"""

import importlib.util
import logging
from dataclasses import dataclass
from functools import cache
from subprocess import CalledProcessError
from typing import Any

import torch
from torch import Tensor

from bt_ray.data.views.photometry.table import NUM_COLUMNS
from bt_ray.data.views.reference import BOX_PASSES

_log = logging.getLogger(__name__)

_BLOCK = 1024
_MOST_VIEWS = 65_535
"""Of one launch: the second side of a CUDA grid is no longer."""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """One launch of a kernel of `photometry.kernels`.

    `reads` and `writes` are its tensors, in the order of its arguments.
    """

    kernel: str
    grid: tuple[int, int]
    reads: tuple[Tensor, ...]
    writes: tuple[Tensor, ...]
    sizes: tuple[int, ...]
    constants: dict[str, Any]

    @property
    def num_bytes(self) -> int:
        """Of all that it reads and writes, each counted once."""
        return sum(tensor.nbytes for tensor in (*self.reads, *self.writes))

    def start(self) -> None:
        """Launches it on the current stream of its tensors' device."""
        from bt_ray.data.views.photometry import kernels

        kernel = getattr(kernels, self.kernel)
        with torch.cuda.device_of(self.writes[0]):  # Triton asks for the current device
            kernel[self.grid](
                *self.reads, *self.writes, *self.sizes, NUM_COLUMNS,
                **self.constants, enable_fp_fusion=False,
            )  # fmt: skip


def apply_fused(levels: Tensor, table: Tensor) -> Tensor:
    """Views after colour jitter, greyscale, blur and solarization.

    Args:
      levels: uint8 (n, 3, h, w), cropped and flipped.
      table: float32 (n, NUM_COLUMNS), on the same device, by `table.tabulate`.
    Returns: uint8 (n, 3, h, w); `levels` is left as it is.
    """
    if len(levels) > _MOST_VIEWS:
        parts = zip(levels.split(_MOST_VIEWS), table.split(_MOST_VIEWS), strict=True)
        return torch.cat([apply_fused(*part) for part in parts])
    launches = plan(levels.contiguous(), table)
    for launch in launches:
        launch.start()
    return launches[-1].writes[0]


def plan(levels: Tensor, table: Tensor) -> list[Launch]:
    """The launches that make of `levels` what the last one writes, and their memory."""
    n, _, height, width = levels.shape
    num_pixels, num_levels = height * width, 3 * height * width
    blocks = -(-num_pixels // _BLOCK)
    sums = torch.empty((n, blocks), dtype=torch.int32, device=levels.device)
    here, there = torch.empty_like(levels), torch.empty_like(levels)
    launches = [
        Launch(
            kernel="luma_sums",
            grid=(blocks, n),
            reads=(levels, table),
            writes=(sums,),
            sizes=(num_pixels,),
            constants={"block_size": _BLOCK},
        ),
        Launch(
            kernel="jitter",
            grid=(blocks, n),
            reads=(levels, table, sums),
            writes=(here,),
            sizes=(num_pixels,),
            constants={"block_size": _BLOCK, "num_sums": 1 << (blocks - 1).bit_length()},
        ),
    ]
    axes = [(width, 1)] * BOX_PASSES + [(height, width)] * BOX_PASSES
    for number, axis in enumerate(axes, start=1):
        launches.append(
            Launch(
                kernel="box_pass",
                grid=(-(-num_levels // _BLOCK), n),
                reads=(here, table),
                writes=(there,),
                sizes=(num_levels, *axis),
                constants={"block_size": _BLOCK, "solarizes": number == len(axes)},
            )
        )
        here, there = there, here
    return launches


@cache
def is_usable(device: torch.device) -> bool:
    """Whether Triton's kernels run on the device; they are tried on the smallest of views.

    Triton is made for Linux alone, and needs a C compiler and Python's headers.
    """
    if device.type != "cuda" or importlib.util.find_spec("triton") is None:
        return False
    from triton.errors import TritonError

    levels = torch.zeros((1, 3, 1, 1), dtype=torch.uint8, device=device)
    table = torch.zeros((1, NUM_COLUMNS), device=device)
    try:
        apply_fused(levels, table)
        torch.cuda.synchronize(device)
    except (ImportError, OSError, RuntimeError, CalledProcessError, TritonError) as error:
        _log.warning(
            "Photometry runs without Triton's kernels, which fail on this machine (%s: %s); it "
            "takes more of the GPU's time.",
            type(error).__name__,
            error,
        )
        return False
    return True
