"""Draws the random parameters of smaller views: crops of their own, or the patches of a jigsaw.

Sources: Caron et al. 2020, section 3.3 (multi-crop); Misra and van der Maaten 2020, section 3.2
(jigsaw).
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bt_ray.config import ViewSettings
from bt_ray.config.data import JIGSAW_PATCHES
from bt_ray.data.views.draw import PAIR, ViewParameters, draw, uniforms

_GRID = 3
_PATCH_SHARE = 64 / 85
"""Side of a patch, as a share of its cell's: 64 of 85 pixels in the paper."""
_JIGSAW = PAIR + JIGSAW_PATCHES
"""Draws order and places of a jigsaw's patches, in the place of a view that it never has."""


def draw_small(
    settings: ViewSettings,
    *,
    seed: int,
    epoch: int,
    samples: NDArray[np.int64],
    widths: NDArray[np.int64],
    heights: NDArray[np.int64],
) -> list[ViewParameters]:
    """The parameters of each smaller view of each of n samples: as many as `small_count`.

    Small view k is drawn as view 2 + k. So blur and solarization are in turn as likely as for the
    first and for the second view; SwAV's own code draws them alike for all crops.

    Args: as of `draw.draw`.
    """
    views = [
        draw(
            settings,
            seed=seed,
            epoch=epoch,
            view=PAIR + number,
            samples=samples,
            widths=widths,
            heights=heights,
        )
        for number in range(settings.small_count)
    ]
    if not views or settings.small_kind == "crops":
        return views
    u = uniforms(seed, epoch, _JIGSAW, samples=samples, count=3 * JIGSAW_PATCHES)
    return _cut(views, u)


def _cut(views: list[ViewParameters], u: NDArray[np.float64]) -> list[ViewParameters]:
    """Nine patches of the first view's crop, in a random order, each with its own photometry.

    Flips and turns are the first view's, too: one for all patches. The order is random, so that it
    does not matter whether an image is flipped before it is cut, as in the paper, or each patch
    afterwards, as here.

    The paper resizes the crop to 255 × 255 pixels and cuts cells of 85 and patches of 64 from it.
    Here they are cut from the image as it is, and each patch is resized once: the same places, to
    whole pixels of the image, without a second interpolation.

    Args:
      u: random numbers in [0, 1), (n, 27): of the order, then of each patch's place.
    """
    whole, cells = views[0], np.argsort(u[:, :JIGSAW_PATCHES], axis=1)
    patches = []
    for k, view in enumerate(views):
        column, row = cells[:, k] % _GRID, cells[:, k] // _GRID
        u_left, u_top = u[:, JIGSAW_PATCHES + k], u[:, 2 * JIGSAW_PATCHES + k]
        left, width = _patch_side(whole.crop_width, column, u_left)
        top, height = _patch_side(whole.crop_height, row, u_top)
        patches.append(
            replace(
                view,
                crop_left=whole.crop_left + left,
                crop_top=whole.crop_top + top,
                crop_width=width,
                crop_height=height,
                flip=whole.flip,
                flip_vertically=whole.flip_vertically,
                quarter_turns=whole.quarter_turns,
                rotation_degrees=whole.rotation_degrees,
            )
        )
    return patches


def _patch_side(
    sizes: NDArray[np.int32], cell: NDArray[np.int64], u: NDArray[np.float64]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Where in a crop a patch begins, and how long it is, along one axis, in pixels, (n,) each.

    Cells are cut at whole pixels. A patch lies in its cell, with all places as likely. It has a
    pixel even where a crop is shorter than the grid.

    Args:
      sizes: of the crops, (n,).
      cell: 0 to 2, (n,).
      u: random numbers in [0, 1), (n,).
    """
    begin, end = (np.rint(sizes * edge / _GRID) for edge in (cell, cell + 1))
    side = np.maximum(1, np.rint((end - begin) * _PATCH_SHARE))
    spare = np.maximum(0, end - begin - side)
    place = np.minimum(begin + np.floor(u * (spare + 1)), sizes - side)
    return place.astype(np.int32), side.astype(np.int32)
