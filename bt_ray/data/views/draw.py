"""Draws the random parameters of distorted views, before anything is applied.

Drawing is vectorised over samples and keyed by (seed, epoch, sample, view): a sample gets the same
views on any worker, in any order.

Source: Zbontar et al. 2021, section 2.1, with BYOL's parameters (`config.ViewSettings`).
"""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from bt_ray.config import ViewSettings

PAIR = 2
"""Views 0 and 1 are the two that are compared; those from 2 on are smaller ones."""
_CROP_ATTEMPTS = 10
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


@dataclass(frozen=True, kw_only=True)
class ViewParameters:
    """The parameters of one view of each of n images; every field has length n.

    Crops are in pixels of the encoded image. Booleans say whether an operation is applied;
    `brightness`, `contrast` and `saturation` are factors.
    """

    crop_left: NDArray[np.int32]
    crop_top: NDArray[np.int32]
    crop_width: NDArray[np.int32]
    crop_height: NDArray[np.int32]
    flip: NDArray[np.bool_]
    jitter: NDArray[np.bool_]
    jitter_order: NDArray[np.int8]
    """(n, 4): the order in which brightness, contrast, saturation and hue are changed."""
    brightness: NDArray[np.float32]
    contrast: NDArray[np.float32]
    saturation: NDArray[np.float32]
    hue: NDArray[np.float32]
    """Shift of the hue in turns."""
    grayscale: NDArray[np.bool_]
    blur_sigma_px: NDArray[np.float32]
    """0 where the view is not blurred."""
    solarize: NDArray[np.bool_]
    flip_vertically: NDArray[np.bool_]
    quarter_turns: NDArray[np.int8]
    """0 to 3, counter-clockwise."""
    rotation_degrees: NDArray[np.float32]
    """Counter-clockwise."""

    def __getitem__(self, rows: slice) -> "ViewParameters":
        return ViewParameters(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})


def uniforms(*key: int, samples: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    """Random numbers in [0, 1), (len(samples), count): a pure function of key and sample.

    A counter-based generator: the finaliser of SplitMix64 (Steele, Lea and Flood 2014),
    chained over the parts of the key, so that whole batches are drawn in one pass.
    """
    state = np.zeros((len(samples), 1), dtype=np.uint64)
    for part in (*key, samples.reshape(-1, 1), np.arange(count).reshape(1, -1)):
        state = mix(state + np.asarray(part).astype(np.uint64))
    return (state >> np.uint64(11)).astype(np.float64) * 2.0**-53


def mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """One round of SplitMix64, of each number."""
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def draw(
    settings: ViewSettings,
    *,
    seed: int,
    epoch: int,
    view: int,
    samples: NDArray[np.int64],
    widths: NDArray[np.int64],
    heights: NDArray[np.int64],
) -> ViewParameters:
    """The parameters of one view of each of n samples.

    Args:
      epoch: counted from 0.
      samples: row indices in the data set, (n,).
      view: 0 for the first view, 1 for the second; blur and solarization differ. From 2 on it is a
        smaller view: its crop has the area of those, and blur and solarization are in turn as
        likely as for the first and for the second view.
      widths, heights: size of each image in pixels, (n,).
    """
    num_crop = 2 * _CROP_ATTEMPTS + 2
    u = uniforms(seed, epoch, view, samples=samples, count=num_crop + 17)
    crops, u = u[:, :num_crop], u[:, num_crop:]
    area = settings.crop_area if view < PAIR else settings.small_crop_area
    left, top, width, height = _draw_crops(settings, area, crops, widths, heights)
    low, high = settings.blur_sigma_px
    return ViewParameters(
        crop_left=left,
        crop_top=top,
        crop_width=width,
        crop_height=height,
        flip=u[:, 0] < settings.flip_probability,
        jitter=u[:, 1] < settings.jitter_probability,
        jitter_order=np.argsort(u[:, 2:6], axis=1).astype(np.int8),
        brightness=_around_one(u[:, 6], settings.jitter_brightness),
        contrast=_around_one(u[:, 7], settings.jitter_contrast),
        saturation=_around_one(u[:, 8], settings.jitter_saturation),
        hue=((2 * u[:, 9] - 1) * settings.jitter_hue).astype(np.float32),
        grayscale=u[:, 10] < settings.grayscale_probability,
        blur_sigma_px=np.where(
            u[:, 11] < settings.blur_probability[view % PAIR], low + (high - low) * u[:, 12], 0
        ).astype(np.float32),
        solarize=u[:, 13] < settings.solarize_probability[view % PAIR],
        flip_vertically=u[:, 14] < settings.vertical_flip_probability,
        quarter_turns=np.floor(4 * settings.quarter_turns * u[:, 15]).astype(np.int8),
        rotation_degrees=((2 * u[:, 16] - 1) * settings.rotation_degrees).astype(np.float32),
    )


def _around_one(u: NDArray[np.float64], spread: float) -> NDArray[np.float32]:
    return (1 + (2 * u - 1) * spread).astype(np.float32)


def _draw_crops(
    settings: ViewSettings,
    areas: tuple[float, float],
    u: NDArray[np.float64],
    widths: NDArray[np.int64],
    heights: NDArray[np.int64],
) -> tuple[NDArray[np.int32], ...]:
    """Left, top, width, height of each crop, distributed as torchvision's RandomResizedCrop.

    An area and a ratio are drawn ten times, and the first crop that fits the image is taken. If
    none fits, it is the largest central crop within the range of ratios. What is shorter than
    `crop_min_px` is lengthened to it, which brings the ratio closer to 1.

    Args:
      areas: lowest and highest, as shares of the image.
    """
    w, h = widths[:, None].astype(np.float64), heights[:, None].astype(np.float64)
    area = w * h * _between(u[:, 0:_CROP_ATTEMPTS], *areas)
    log_low, log_high = np.log(settings.crop_ratio)
    ratio = np.exp(_between(u[:, _CROP_ATTEMPTS : 2 * _CROP_ATTEMPTS], log_low, log_high))
    crop_w, crop_h = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
    fits = (crop_w > 0) & (crop_w <= w) & (crop_h > 0) & (crop_h <= h) & (area < w * h)
    first = np.argmax(fits, axis=1)[:, None]
    found = np.take_along_axis(fits, first, 1)[:, 0]

    low, high = settings.crop_ratio
    narrow, wide = w[:, 0] / h[:, 0] < low, w[:, 0] / h[:, 0] > high
    fallback_w = np.where(wide, np.rint(h[:, 0] * high), w[:, 0])
    fallback_h = np.where(narrow, np.rint(w[:, 0] / low), h[:, 0])
    width = np.where(found, np.take_along_axis(crop_w, first, 1)[:, 0], fallback_w)
    height = np.where(found, np.take_along_axis(crop_h, first, 1)[:, 0], fallback_h)
    width = np.maximum(width, np.minimum(settings.crop_min_px, w[:, 0]))
    height = np.maximum(height, np.minimum(settings.crop_min_px, h[:, 0]))
    u_left, u_top = u[:, 2 * _CROP_ATTEMPTS], u[:, 2 * _CROP_ATTEMPTS + 1]
    spare_w, spare_h = w[:, 0] - width, h[:, 0] - height
    left = np.where(found, np.floor(u_left * (spare_w + 1)), spare_w // 2)
    top = np.where(found, np.floor(u_top * (spare_h + 1)), spare_h // 2)
    return tuple(np.maximum(a, floor).astype(np.int32)
                 for a, floor in ((left, 0), (top, 0), (width, 1), (height, 1)))  # fmt: skip


def _between(u: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    return low + (high - low) * u
