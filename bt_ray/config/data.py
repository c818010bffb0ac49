"""Settings of the images and of their views."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from bt_ray.config.checks import require, require_positive, require_probability, require_range

Transformation = Literal["crop", "flip", "jitter", "grayscale", "blur", "solarize"]
WITHOUT: Mapping[Transformation, Mapping[str, Any]] = {
    "crop": {"crop_area": (1.0, 1.0)},
    "flip": {"flip_probability": 0.0},
    "jitter": {"jitter_probability": 0.0},
    "grayscale": {"grayscale_probability": 0.0},
    "blur": {"blur_probability": (0.0, 0.0)},
    "solarize": {"solarize_probability": (0.0, 0.0)},
}
"""Transformation → the changes to the views' settings that leave it out."""


_MOST_CHANNELS = 32


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """What is learned from, and in what portions."""

    train: str
    """Images to learn from: `digits`, a folder of images, or a folder of shards."""
    test: str | None = None
    """Held-out labelled images for kNN, given like `train`; none: no kNN."""
    validation: str | None = None
    """Images that the best checkpoint is chosen by (`training.keep_best`, `training.patience`),
    given like `train`, neither trained on nor tested on; none: where that is asked for, a part of
    the training images is held out, as in a sweep."""
    validation_share: float = 0.1
    """Share of the training images that is held out so."""
    labels: Literal["found", "none"] = "found"
    """Where labels come from: found: from what the source tells, such as its subfolders; none: the
    images are taken without labels, as from folders that are dates."""
    channels: int = 3
    """Channels of an image, 1 to 32. 1 and 3: images are converted, from colour to grey and from
    grey to colour; any other number: every image must have as many."""
    bit_depth: Literal[8, 16] = 8
    """Bits of a channel's levels: deeper images are brought to 8, or keep up to 16 of theirs."""
    mean: tuple[float, ...] | None = None
    """Mean of each channel that is subtracted, as a share of the highest level; none: for 8-bit RGB
    ImageNet's, or that of timm's encoder; for other images what was measured when their shards
    were written."""
    std: tuple[float, ...] | None = None
    """Standard deviation of each channel, likewise, that is divided by."""
    global_batch: int = 256
    """Images of one optimizer step, over all workers (N)."""
    rows_per_row_group: int = 256
    """Images of one Parquet row group when shards are written."""
    on_bad_image: Literal["stop", "skip"] = "stop"
    """When shards are written, at images that cannot be decoded: stop once all of them are listed,
    or leave them out."""
    window_mb: int = 512
    """Encoded images (MB) that one reader holds and shuffles at a time."""
    max_bad_rate: float = 0.001
    """Highest share of images that cannot be decoded, and so are replaced by others, counted over
    as many images as would have ten such at this rate; above it the run ends; 0: the first such
    image ends it."""

    def __post_init__(self) -> None:
        require_positive("data", self, "rows_per_row_group", "window_mb")
        require(
            self.global_batch >= 2,
            f"data.global_batch={self.global_batch} must be at least 2: "
            "a correlation needs two images.",
        )
        require_probability("data", self, "max_bad_rate")
        require(
            0 < self.validation_share < 1,
            f"data.validation_share={self.validation_share} must lie between 0 and 1.",
        )
        require(
            1 <= self.channels <= _MOST_CHANNELS,
            f"data.channels={self.channels} must lie between 1 and {_MOST_CHANNELS}.",
        )
        require(
            (self.mean is None) == (self.std is None),
            f"data.mean={self.mean} and data.std={self.std} must be given together, or neither.",
        )
        if self.mean is not None and self.std is not None:
            self._check_statistics(self.mean, self.std)

    def _check_statistics(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        for name, values in (("mean", mean), ("std", std)):
            require(
                len(values) == self.channels,
                f"data.{name}={values} must have data.channels={self.channels} numbers.",
            )
        require_probability("data", self, "mean")
        require(
            all(0 < value <= 1 for value in std), f"data.std={std} must lie above 0, and up to 1."
        )

    @property
    def highest_level(self) -> int:
        """255 or 65,535."""
        return (1 << self.bit_depth) - 1

    @property
    def is_rgb(self) -> bool:
        """Whether images have three channels of 8 bits, for which there are the fastest ways."""
        return self.channels == 3 and self.bit_depth == 8


@dataclass(frozen=True, kw_only=True)
class ViewSettings:
    """The two distorted views of an image (paper, section 2.1; the defaults are BYOL's)."""

    count: Literal[1, 2] = 2
    """Views of an image: the two that pretraining compares; a classifier is trained on one."""
    image_px: int = 224
    """Side of a view."""
    crop_area: tuple[float, float] = (0.08, 1.0)
    """Area of the random crop, as a share of the image: lowest and highest."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Aspect ratio (width / height) of the random crop: lowest and highest."""
    flip_probability: float = 0.5
    """Probability of the horizontal flip."""
    jitter_probability: float = 0.8
    """Probability of the colour jitter."""
    jitter_brightness: float = 0.4
    """Brightness factor is drawn from 1 ± this."""
    jitter_contrast: float = 0.4
    """Contrast factor is drawn from 1 ± this."""
    jitter_saturation: float = 0.2
    """Saturation factor is drawn from 1 ± this."""
    jitter_hue: float = 0.1
    """Hue shift is drawn from ± this, in turns of the colour wheel (at most 0.5)."""
    grayscale_probability: float = 0.2
    """Probability of dropping the colours."""
    blur_probability: tuple[float, float] = (1.0, 0.1)
    """Probability of the Gaussian blur: first view, second view."""
    blur_sigma_px: tuple[float, float] = (0.1, 2.0)
    """Standard deviation of the blur: lowest and highest."""
    solarize_probability: tuple[float, float] = (0.0, 0.2)
    """Probability of solarization: first view, second view."""
    solarize_threshold: int = 128
    """Pixels at or above this are inverted by solarization."""
    photometry: Literal["loader", "device"] = "loader"
    """Where colour, blur and solarization are applied: image by image beside the decoder, or
    batched on the training device."""

    backend: Literal["fast", "reference"] = "fast"
    """How images are decoded, cropped and, in the loader, coloured: by simplejpeg, torch and
    OpenCV, or by Pillow (the reference), to within a level of 255 on average."""

    def __post_init__(self) -> None:
        require_positive("views", self, "image_px")
        require_range("views", self, "crop_area", "crop_ratio", "blur_sigma_px")
        require(
            self.crop_area[1] <= 1, f"views.crop_area={self.crop_area} must not exceed 1: a share."
        )
        require_probability(
            "views",
            self,
            "flip_probability",
            "jitter_probability",
            "jitter_brightness",
            "jitter_contrast",
            "jitter_saturation",
            "grayscale_probability",
            "blur_probability",
            "solarize_probability",
        )
        require(
            0 <= self.jitter_hue <= 0.5,
            f"views.jitter_hue={self.jitter_hue} must lie between 0 and 0.5 turns.",
        )

    def without(self, *transformations: Transformation) -> "ViewSettings":
        """These views with some transformations left out (Fig. 3); the others' draws stay.

        Without `crop` the whole image is resized, or its middle if it is longer than
        `crop_ratio` allows.
        """
        changes: dict[str, Any] = {}
        for transformation in transformations:
            changes |= WITHOUT[transformation]
        return dataclasses.replace(self, **changes)
