"""A preparation job: the source, the destination and the settings decide what shards hold."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from bt_ray.config import Pixels
from bt_ray.data.shards.manifest import Preparation
from bt_ray.data.shards.shard_file import JPEG_QUALITY, RESAMPLING
from bt_ray.data.sources import Source
from bt_ray.errors import SettingsError

_ROWS_PER_SHARD, _BYTES_PER_SHARD = 16_384, 256 * 2**20


@dataclass(frozen=True, kw_only=True)
class Treatment:
    """What is done to images on their way into shards."""

    max_side_px: int | None = None
    """Resize images whose longer side exceeds this: Lanczos, JPEG of quality 95."""
    on_bad_image: Literal["stop", "skip"] = "stop"
    """At images that cannot be decoded: stop once all of them are listed, or leave them out.
    They are listed in rejected.jsonl."""
    max_bad_rate: float = 0.5
    """Share of images that may be left out; a source with more is hardly one of images."""
    pixels: Pixels = field(default_factory=Pixels)

    def __post_init__(self) -> None:
        if self.max_side_px is not None and self.max_side_px < 1:
            raise SettingsError(f"max_side_px={self.max_side_px} must be at least 1.")
        if not 0 <= self.max_bad_rate <= 1:
            raise SettingsError(f"max_bad_rate={self.max_bad_rate} must lie between 0 and 1.")
        if self.max_side_px is not None and not self.pixels.is_rgb:
            raise SettingsError(
                f"max_side_px={self.max_side_px} makes JPEGs, of 3 channels of 8 bits, and "
                f"{self.pixels.words} are wanted; leave it out: views are resized when they are "
                "made."
            )


def name_pixels(pixels: Pixels) -> str | None:
    """What images are decoded to, if it is not the usual: in names of folders and claims."""
    return None if pixels.is_usual else pixels.words


@dataclass(frozen=True)
class Job:
    """The source to prepare, the folder `root` to write into, and how."""

    source: Source
    root: str
    rows_per_row_group: int
    treatment: Treatment

    def __post_init__(self) -> None:
        if self.rows_per_row_group < 1:
            raise SettingsError(f"rows_per_row_group={self.rows_per_row_group} must be at least 1.")

    @cached_property
    def rows_per_shard(self) -> int:
        """Rows of a shard: whole row groups, of at most about 256 MB and 16,384 rows in all."""
        bytes_per_row = max(1, self.source.num_bytes // max(1, len(self.source)))
        rows = min(_ROWS_PER_SHARD, _BYTES_PER_SHARD // bytes_per_row)
        return max(1, rows // self.rows_per_row_group) * self.rows_per_row_group

    @property
    def facts(self) -> dict[str, Any]:
        """What distinguishes this job from another one that may have begun in its folder."""
        return {
            "identity": self.source.identity,
            "rows_per_row_group": self.rows_per_row_group,
            "max_side_px": self.treatment.max_side_px,
            "pixels": name_pixels(self.treatment.pixels),
        }

    @property
    def preparation(self) -> Preparation:
        """How the data set is prepared, for its manifest."""
        is_resized = self.treatment.max_side_px is not None
        return Preparation(
            source=self.source.name,
            order="digits" if self.source.identity.startswith("digits-") else "sha256(sample_id)",
            max_side_px=self.treatment.max_side_px,
            resampling=RESAMPLING if is_resized else None,
            jpeg_quality=JPEG_QUALITY if is_resized else None,
            on_bad_image=self.treatment.on_bad_image,
        )

    def parts(self, rows: Sequence[int]) -> list[Source]:
        """The images in these rows, cut into parts of one shard each."""
        size = self.rows_per_shard
        return [self.source.take(rows[i : i + size]) for i in range(0, len(rows), size)]
