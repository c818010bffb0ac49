"""Makes views of images that are not 8-bit RGB: any number of channels, of 8 or 16 bits.

torch resizes crops as float32, and its operations do the photometry, one view at a time: the same
as `photometry.eager` does of a batch on the training device, to the same levels. torch is
imported when the first view is made, as importing `stream.decode` must not take that long.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bt_ray.data.views.draw import ViewParameters

Levels = NDArray[Any]
"""An image, (h, w, c), of whole levels: uint8 or uint16."""


def crop(image: Levels, parameters: ViewParameters, row: int, image_px: int) -> Levels:
    """The crop of view `row`, resized (bicubic, antialiased) to `image_px`², and flipped or not."""
    import torch
    from torch.nn.functional import interpolate

    left, top = int(parameters.crop_left[row]), int(parameters.crop_top[row])
    right, bottom = left + int(parameters.crop_width[row]), top + int(parameters.crop_height[row])
    box = np.ascontiguousarray(image[top:bottom, left:right].transpose(2, 0, 1), np.float32)
    planes = interpolate(
        torch.from_numpy(box)[None], (image_px, image_px), mode="bicubic", antialias=True
    )
    whole = planes[0].round_().clamp_(0, np.iinfo(image.dtype).max).numpy()
    view: Levels = whole.transpose(1, 2, 0).astype(image.dtype)
    return view[:, ::-1] if parameters.flip[row] else view


def photometry(
    view: Levels, parameters: ViewParameters, row: int, solarize_threshold: int
) -> Levels:
    """View `row`, (px, px, c), after colour jitter, greyscale, blur and solarization.

    Args:
      solarize_threshold: of 255 levels.
    """
    import torch

    from bt_ray.data.views.photometry.eager import apply_eager
    from bt_ray.data.views.photometry.table import tabulate

    drawn = tabulate(
        parameters[row : row + 1],
        solarize_threshold,
        channels=view.shape[2],
        highest_level=np.iinfo(view.dtype).max,
    )
    levels = torch.from_numpy(np.ascontiguousarray(view.transpose(2, 0, 1)))[None]
    finished: Levels = apply_eager(levels, drawn, torch.from_numpy(drawn))[0].numpy()
    return finished.transpose(1, 2, 0)
