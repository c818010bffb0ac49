"""What pixels images are decoded to."""

from dataclasses import dataclass
from typing import Literal

from bt_ray.config.checks import require

MOST_CHANNELS = 32

Orientation = Literal["ignored", "exif"]


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """The channels and levels that all images of a data set are brought to."""

    channels: int = 3
    """Channels of an image, 1 to 32. 1 and 3: images are converted, from colour to grey and from
    grey to colour; any other number: every image must have as many."""
    bit_depth: Literal[8, 16] = 8
    """Bits of a channel's levels: deeper images are brought to 8, or keep up to 16 of theirs."""
    orientation: Orientation = "ignored"
    """The camera's note of how an image is to be turned (EXIF): ignored, as in the paper, or
    followed (exif)."""

    def __post_init__(self) -> None:
        require(
            1 <= self.channels <= MOST_CHANNELS,
            f"channels={self.channels} must lie between 1 and {MOST_CHANNELS}.",
        )

    @property
    def highest_level(self) -> int:
        """255 or 65,535."""
        return (1 << self.bit_depth) - 1

    @property
    def dtype(self) -> Literal["uint8", "uint16"]:
        """The type of levels in arrays."""
        return "uint8" if self.bit_depth == 8 else "uint16"

    @property
    def is_rgb(self) -> bool:
        """Whether images have three channels of 8 bits, for which there are the fastest ways."""
        return self.channels == 3 and self.bit_depth == 8

    @property
    def is_usual(self) -> bool:
        """Whether they are 8-bit RGB as it lies in the files, which no setting changes."""
        return self.is_rgb and self.orientation == "ignored"

    @property
    def words(self) -> str:
        """These for people, such as `5 channels of 16 bits`."""
        what = f"{self.channels} channel{'s' * (self.channels > 1)} of {self.bit_depth} bits"
        return what + (", turned by EXIF" if self.orientation == "exif" else "")

    @property
    def flags(self) -> str:
        """Those flags of `pipelines.prepare` that say so."""
        return (
            f"--channels {self.channels} --bit-depth {self.bit_depth} "
            f"--orientation {self.orientation}"
        )
