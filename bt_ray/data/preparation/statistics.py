"""Mean and deviation of each channel, measured while shards are written.

Inputs that are not 8-bit RGB are normalised by them.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bt_ray.config import Pixels, Settings
from bt_ray.data.shards.manifest import Manifest
from bt_ray.data.sources import SourceImage
from bt_ray.data.views.raster import decode_raster

_MOST_MEASURED = 4096
"""Images that are measured, about: the rest of a set would change no digit that matters."""


@dataclass
class Measured:
    """Sums over the images of one part: of each channel's mean, and of its mean square, in levels.

    They are exact or correctly rounded, so that they do not depend on who adds them up, or where.
    """

    means: list[tuple[float, ...]] = field(default_factory=list)
    squares: list[tuple[float, ...]] = field(default_factory=list)

    def add(self, levels: NDArray[Any]) -> None:
        """Counts an image (h, w, c)."""
        count = levels.shape[0] * levels.shape[1]
        planes = [levels[..., i] for i in range(levels.shape[2])]
        self.means.append(tuple(int(plane.sum(dtype=np.uint64)) / count for plane in planes))
        self.squares.append(
            tuple(int(np.square(p, dtype=np.uint64).sum(dtype=np.uint64)) / count for p in planes)
        )

    @property
    def record(self) -> dict[str, Any]:
        """These as JSON can hold them."""
        return {
            "num_measured": len(self.means),
            "means": [math.fsum(column) for column in zip(*self.means, strict=True)],
            "squares": [math.fsum(column) for column in zip(*self.squares, strict=True)],
        }


def stride_of(num_images: int) -> int:
    """Every how many images one is measured: each of a small set, some thousands of a large one."""
    return math.ceil(max(1, num_images) / _MOST_MEASURED)


def measuring(
    images: Iterator[SourceImage], pixels: Pixels, stride: int, measured: Measured
) -> Iterator[SourceImage]:
    """The images, every `stride`-th of which is added to `measured`, from the first one on.

    Images lie in an order that looks random (`sources.index`), so that these are a fair sample.
    """
    for number, image in enumerate(images):
        if number % stride == 0:
            measured.add(decode_raster(image.encoded, pixels))
        yield image


def join(records: Sequence[dict[str, Any]], pixels: Pixels) -> dict[str, Any]:
    """What the manifest says of the images of all parts: `mean`, `std` and `num_measured`.

    Each image counts alike, however large it is, as each does in training.
    """
    count = sum(record["num_measured"] for record in records)
    if not count:
        return {}
    told = [record for record in records if record["num_measured"]]
    mean, square = (
        [math.fsum(column) / count for column in zip(*(r[name] for r in told), strict=True)]
        for name in ("means", "squares")
    )
    high = pixels.highest_level
    variance = [max(0.0, of_square - m * m) for of_square, m in zip(square, mean, strict=True)]
    return {
        "num_measured": count,
        "mean": tuple(m / high for m in mean),
        "std": tuple(math.sqrt(v) / high for v in variance),
    }


def known_statistics(settings: Settings, manifest: Manifest) -> Settings:
    """The settings with the mean and deviation that inputs are to be normalised by, where known.

    Those that are given stay. Of images that are not 8-bit RGB they are what the shards were
    measured to have; a channel without any variation has a deviation of one level. Of 8-bit RGB
    they are those of timm's encoder, if it is one, and else left out, which means ImageNet's.

    Args:
      manifest: of the training images.
    """
    data = settings.data
    if data.mean is not None:
        return settings
    if data.is_rgb:
        found = _of_timm(settings.model.encoder)
    elif manifest.mean is None or manifest.std is None:
        found = None
    else:
        least = 1 / data.highest_level
        found = manifest.mean, tuple(max(share, least) for share in manifest.std)
    if found is None:
        return settings
    return replace(settings, data=replace(data, mean=found[0], std=found[1]))


def _of_timm(encoder: str) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """What timm's own weights of this encoder were trained with; None of other encoders."""
    library, _, name = encoder.partition(":")
    if library != "timm":
        return None
    from bt_ray.model.encoder.of_timm import statistics  # here: torch takes seconds to import

    return statistics(name)
