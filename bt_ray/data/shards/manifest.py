"""The manifest of a folder of shards: its JSON file describes them."""

import base64
import hashlib
import io
import json
import zlib
from dataclasses import asdict, dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from bt_ray.config import Pixels
from bt_ray.config.pixels import Orientation
from bt_ray.errors import DataError

SCHEMA_VERSION = 5
"""Schema 1 had no columns `class_name` and `source`, and a shorter manifest; in schema 2 shards had
no `footer`; schema 3 knew 8-bit RGB alone; in schema 4 shards had no `rows_sha256`. All are still
read."""
_SINCE_4 = ("channels", "bit_depth", "orientation", "mean", "std", "num_measured", "num_turned")

SAMPLES = pa.schema(
    [
        ("sample_id", pa.string()),
        ("image", pa.binary()),
        ("label", pa.int32()),
        ("width", pa.int32()),
        ("height", pa.int32()),
    ]
)
"""The columns that training and evaluation read."""

COLUMNS = pa.unify_schemas(
    [SAMPLES, pa.schema([("class_name", pa.string()), ("source", pa.string())])]
)
"""`image` is the file as it was found, unless it was resized; `label` and `class_name` are null
where there are none; `source` is where in the source the image lay."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One Parquet file of a data set."""

    file: str
    num_rows: int
    sha256: str
    num_bytes: int | None = None
    """Size of the file; none in manifests of schema 1."""
    footer: str | None = None
    """The file's Parquet footer, which says where its row groups lie, so that a reader need not ask
    for it; compressed (zlib), in base64. None in manifests of schema 2 and 1."""
    rows_sha256: str | None = None
    """Of the images' bytes and labels, row by row (`update_rows`); none before schema 5."""

    @property
    def content(self) -> str:
        """The SHA-256 of the rows, or, for want of it, of the file.

        The former stays the same if names or columns of no account to training change, or what
        else a later version or another Parquet library writes into the file.
        """
        return self.rows_sha256 or self.sha256

    def metadata(self) -> pq.FileMetaData | None:
        """The footer, if the manifest holds it."""
        if self.footer is None:
            return None
        return pq.read_metadata(pa.BufferReader(zlib.decompress(base64.b64decode(self.footer))))


def pack_footer(metadata: pq.FileMetaData) -> str:
    """A shard's footer as its `footer`."""
    buffer = io.BytesIO()
    metadata.write_metadata_file(buffer)
    return base64.b64encode(zlib.compress(buffer.getvalue())).decode()


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """How a data set was prepared."""

    source: str
    """The source's name, as the user gave it."""
    order: str
    """What the images are sorted by."""
    max_side_px: int | None
    """Longest side; images above it were resized."""
    resampling: str | None
    jpeg_quality: int | None
    on_bad_image: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of a folder of shards."""

    schema_version: int
    identity: str
    classes: tuple[str, ...]
    num_rows: int
    num_bytes: int
    """Size of all rows in memory, in the columns that training reads."""
    rows_per_row_group: int
    shards: tuple[Shard, ...]
    rows_per_class: tuple[int, ...] = ()
    num_rejected: int = 0
    """Images that could not be decoded, and were left out."""
    rejected_sha256: str | None = None
    """Of rejected.jsonl, which lists them."""
    preparation: Preparation | None = None
    channels: int = 3
    """Channels, bits and orientation that every image was seen to decode to."""
    bit_depth: Literal[8, 16] = 8
    orientation: Orientation = "ignored"
    mean: tuple[float, ...] | None = None
    """Mean of each channel, as a share of the highest level, over the images that were measured,
    each of which counts alike; none in manifests of older schemas."""
    std: tuple[float, ...] | None = None
    """Standard deviation, likewise."""
    num_measured: int = 0
    num_turned: int = 0
    """Images whose camera's note of how they are to be turned (EXIF) is ignored."""

    @property
    def pixels(self) -> Pixels:
        """What pixels the images are decoded to."""
        return Pixels(
            channels=self.channels, bit_depth=self.bit_depth, orientation=self.orientation
        )

    @property
    def note_on_turned(self) -> str:
        """A sentence on images whose camera's note is ignored; empty if there are none."""
        if not self.num_turned:
            return ""
        images = f"{self.num_turned:,} image{'s' * (self.num_turned > 1)}"
        return (
            f"{images} that a camera noted how to turn (EXIF) stay as they lie in their files, as "
            "in the paper's pipeline; data.orientation=exif (--orientation exif of "
            "`pipelines.prepare`) turns them."
        )

    @property
    def digest(self) -> str:
        """SHA-256 over the manifest, and so over the checksums of all shards."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @property
    def content(self) -> str:
        """SHA-256 of what is trained on: the shards' content and the classes, in order.

        Unlike `digest` it does not depend on where the images came from, or what they were called
        there: the same images, prepared again from elsewhere, have the same content.
        """
        facts = (self.classes, self.rows_per_row_group, [shard.content for shard in self.shards])
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def to_json(self) -> str:
        """The manifest as the text of its file."""
        tree = asdict(self)
        if self.schema_version == 1:
            for name in ("rows_per_class", "num_rejected", "rejected_sha256", "preparation"):
                del tree[name]
        if self.schema_version < 4:
            for name in _SINCE_4:
                del tree[name]
        for shard in tree["shards"]:
            if self.schema_version < 5:
                del shard["rows_sha256"]
            if self.schema_version < 3:
                del shard["footer"]
            if self.schema_version < 2:
                del shard["num_bytes"]
        return json.dumps(tree, indent=2, ensure_ascii=False)

    @classmethod
    def from_tree(cls, tree: dict[str, Any]) -> "Manifest":
        """The manifest in this JSON, of this schema or an older one.

        Raises: DataError if a shard's name is a path; KeyError or TypeError if it is no manifest.
        """
        shards = tuple(Shard(**shard) for shard in tree["shards"])
        if outside := [shard.file for shard in shards if not is_plain_name(shard.file)]:
            raise DataError(
                f"The manifest names the shard {outside[0]!r}, which is not a file in its own "
                "folder; prepare the data again."
            )
        told = tree.get("preparation")
        return cls(**tree | {
            "shards": shards,
            "classes": tuple(tree["classes"]),
            "rows_per_class": tuple(tree.get("rows_per_class", ())),
            "preparation": Preparation(**told) if told is not None else None,
            **{name: tuple(tree[name]) for name in ("mean", "std") if tree.get(name) is not None},
        })  # fmt: skip


def is_plain_name(file: str) -> bool:
    """Whether a manifest's name of a file is that of one in its own folder, and no path."""
    return file not in ("", ".", "..") and not set("/\\\0") & set(file)
