"""Settings of the images and of their views."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from bt_ray.config.checks import require, require_positive, require_probability, require_range
from bt_ray.config.pixels import MOST_CHANNELS, Orientation, Pixels

Transformation = Literal["crop", "flip", "jitter", "grayscale", "blur", "solarize"]
"""A transformation of the paper's Fig. 3."""
WITHOUT: Mapping[Transformation, Mapping[str, Any]] = {
    "crop": {"crop_area": (1.0, 1.0)},
    "flip": {"flip_probability": 0.0},
    "jitter": {"jitter_probability": 0.0},
    "grayscale": {"grayscale_probability": 0.0},
    "blur": {"blur_probability": (0.0, 0.0)},
    "solarize": {"solarize_probability": (0.0, 0.0)},
}
"""Transformation → the changes to the views' settings that leave it out."""


JIGSAW_PATCHES = 9
COLOURS = 3
"""Channels of an image that has saturation, hues and a grey of its own."""


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
    orientation: Orientation = "ignored"
    """The camera's note of how an image is to be turned (EXIF): ignored, as in the paper, or
    followed (exif)."""
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
            1 <= self.channels <= MOST_CHANNELS,
            f"data.channels={self.channels} must lie between 1 and {MOST_CHANNELS}.",
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
    def pixels(self) -> Pixels:
        """What pixels images are decoded to."""
        return Pixels(
            channels=self.channels, bit_depth=self.bit_depth, orientation=self.orientation
        )

    def decoded_as(self, other: "DataSettings") -> "DataSettings":
        """These images, decoded and normalised as the other settings say."""
        return dataclasses.replace(
            self,
            channels=other.channels,
            bit_depth=other.bit_depth,
            orientation=other.orientation,
            mean=other.mean,
            std=other.std,
        )

    @property
    def highest_level(self) -> int:
        """255 or 65,535."""
        return self.pixels.highest_level

    @property
    def is_rgb(self) -> bool:
        """Whether images have three channels of 8 bits, for which there are the fastest ways."""
        return self.pixels.is_rgb


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
    crop_min_px: int = 0
    """No side of a crop is shorter than this many pixels of the encoded image, or than the image's
    own side if that is shorter: for objects that a smaller crop would miss; 0: no floor."""
    flip_probability: float = 0.5
    """Probability of the horizontal flip."""
    vertical_flip_probability: float = 0.0
    """Probability of the vertical flip: for images without an up and a down."""
    quarter_turns: bool = False
    """Whether views are turned by 0, 90, 180 or 270 degrees, each as likely: for images from above
    and through a microscope."""
    rotation_degrees: float = 0.0
    """Views are rotated by an angle that is drawn from ± this, about their middle (at most 180);
    what comes in at the corners is the view's own reflection, never black."""
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
    """Levels at or above this, of 255, are inverted by solarization."""
    small_count: int = 0
    """Further, smaller views of an image, for methods that take them: SwAV's multi-crop (6 of 96
    pixels beside two of 224, in the paper), PIRL's patches (9)."""
    small_px: int = 96
    """Side of a smaller view."""
    small_kind: Literal["crops", "jigsaw"] = "crops"
    """What they are: crops of their own; or jigsaw: nine patches of one crop, cut from a grid of
    three by three in a random order, each a little smaller than its cell."""
    small_crop_area: tuple[float, float] = (0.05, 0.14)
    """Area of the crop, as a share of the image, of each smaller view; of a jigsaw, of the one crop
    that is cut (PIRL: 0.6 1)."""
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
            "vertical_flip_probability",
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
        require_positive("views", self, "small_px")
        require_range("views", self, "small_crop_area")
        require(
            self.small_crop_area[1] <= 1,
            f"views.small_crop_area={self.small_crop_area} must not exceed 1: a share.",
        )
        require(
            self.small_count >= 0,
            f"views.small_count={self.small_count} must be 0, for no smaller views, or more.",
        )
        require(
            self.small_kind == "crops" or self.small_count in (0, JIGSAW_PATCHES),
            f"views.small_count={self.small_count} must be {JIGSAW_PATCHES} for "
            "views.small_kind=jigsaw.",
        )
        require(
            self.crop_min_px >= 0,
            f"views.crop_min_px={self.crop_min_px} must be 0, for no floor, or more.",
        )
        require(
            0 <= self.rotation_degrees <= 180,
            f"views.rotation_degrees={self.rotation_degrees} must lie between 0 and 180.",
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
