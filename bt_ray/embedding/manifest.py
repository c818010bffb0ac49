"""The manifest of a folder of vectors: its JSON file describes them."""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

import pyarrow as pa

from bt_ray.data.shards.manifest import Shard, is_plain_name
from bt_ray.errors import DataError

SCHEMA_VERSION = 1
KIND = "embeddings"

Precision = Literal["fp32", "bf16", "fp16"]


def columns(num_features: int) -> pa.Schema:
    """The files' columns; `source` is the image's place in its source, `class_name` may be null."""
    return pa.schema(
        [
            ("sample_id", pa.string()),
            ("source", pa.string()),
            ("class_name", pa.string()),
            ("vector", pa.list_(pa.float32(), num_features)),
        ]
    )


@dataclass(frozen=True, kw_only=True)
class EncoderFacts:
    """Which encoder made the vectors, and how."""

    reference: str
    """The name that the user gave it by."""
    run_id: str | None
    """The MLflow run that trained it; none if unknown."""
    digest: str
    """SHA-256 over names and values of all its weights."""
    architecture: str
    image_px: int
    """Side of the central view that it encodes."""
    num_features: int
    precision: Precision


@dataclass(frozen=True, kw_only=True)
class EmbeddingManifest:
    """The content of a folder of vectors."""

    kind: str
    schema_version: int
    identity: str
    """The images' identity, which changes when they do."""
    source: str
    """The source's name, as the user gave it."""
    encoder: EncoderFacts
    rows_per_file: int
    num_rows: int
    num_rejected: int
    """Images that could not be decoded: they have no vector."""
    rejected_sha256: str | None
    """Of rejected.jsonl, which lists them."""
    files: tuple[Shard, ...]

    @property
    def digest(self) -> str:
        """SHA-256 over the manifest, and so over the checksums of all files."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """The manifest as the text of its file."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False)

    @classmethod
    def from_tree(cls, tree: dict[str, Any]) -> "EmbeddingManifest":
        """The manifest in this JSON.

        Raises: KeyError, TypeError or ValueError if it is not a manifest of vectors; DataError if
          a newer bt_ray wrote it, or a file's name is a path.
        """
        if tree["kind"] != KIND:
            raise ValueError(f"kind={tree['kind']}")
        if tree["schema_version"] > SCHEMA_VERSION:
            raise DataError(
                f"The vectors have schema {tree['schema_version']}; this bt_ray reads up to "
                f"{SCHEMA_VERSION}. Use a newer bt_ray."
            )
        files = tuple(Shard(**file) for file in tree["files"])
        if outside := [file.file for file in files if not is_plain_name(file.file)]:
            raise DataError(
                f"The manifest names the file {outside[0]!r}, which is not in its own folder; "
                "embed the images again in a new folder."
            )
        return cls(**tree | {"encoder": EncoderFacts(**tree["encoder"]), "files": files})
