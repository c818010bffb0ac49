"""A source: an index of images, in the order of their rows to be, and a reader of their bytes.

The index is one Arrow table. So a part of a source is a slice of it, which travels to another
process on its own: what is read where, and how often, changes nothing in the result.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import pyarrow as pa

from bt_ray.data.location import first_line
from bt_ray.errors import DataError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")


@dataclass(frozen=True)
class SourceImage:
    """One encoded image on its way into a shard."""

    sample_id: str
    """Stable name of the image, unique within its source."""
    encoded: bytes
    label: int | None
    class_name: str | None = None
    origin: str = ""
    """Where in the source the image was found."""


class Reader(Protocol):
    """Reads the bytes of images; travels to other processes by pickle."""

    def read(self, entries: pa.Table) -> Iterator[bytes]:
        """The encoded images that rows of a source's index stand for, in their order."""


@dataclass(frozen=True)
class Source:
    """A countable, indexable collection of encoded images.

    Args:
      identity: changes when the images do.
      classes: names of the labels; empty where there are none.
      entries: one row an image: `sample_id`, `label`, `origin`, and what the reader needs.
      num_bytes: of all encoded images and their names; an estimate if they are not encoded yet.
      name: what a person called it, without secrets.
      stored_order: columns that sort `entries` as they are stored, block by block (all columns
        but the last name the block); empty if each image can be read alone.
    Raises: DataError if two images have one name.
    """

    identity: str
    classes: tuple[str, ...]
    entries: pa.Table
    reader: Reader
    num_bytes: int
    name: str = ""
    stored_order: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = self.entries["sample_id"]
        if len(names.unique()) == len(names):
            return
        counts = names.value_counts().to_pylist()
        twice = next(entry["values"] for entry in counts if entry["counts"] > 1)
        raise DataError(f"{twice!r} is in {self.name or self.identity} twice; give each image once "
                        "and a name of its own.")  # fmt: skip

    def __len__(self) -> int:
        return int(self.entries.num_rows)

    def take(self, rows: Iterable[int]) -> "Source":
        """The source of these of its images only, `num_bytes` left as it is."""
        return replace(self, entries=self.entries.take(pa.array(rows, pa.int64())))

    def read(self) -> Iterator[SourceImage]:
        """All images, one after the other.

        Raises: DataError if they are no longer there, or the storage fails.
        """
        try:
            contents = self.reader.read(self.entries)
            for entry in self.entries.select(["sample_id", "label", "origin"]).to_batches():
                for row in entry.to_pylist():
                    label = row["label"]
                    class_name = self.classes[label] if label is not None and self.classes else None
                    yield SourceImage(
                        row["sample_id"], next(contents), label, class_name, row["origin"]
                    )
        except OSError as error:
            raise DataError(
                f"{self.name or self.identity} cannot be read any more ({first_line(error)}); see "
                "that it is whole and within reach, and give the same command again."
            ) from error


def index(
    sample_ids: list[str],
    labels: list[int | None],
    *,
    origins: list[str] | None = None,
    **columns: object,
) -> pa.Table:
    """The index of images that have these names, in an order that does not follow them.

    The order is that of the names' hashes: shuffled, so that any stretch of it is a fair sample
    of the whole, and the same every time.
    """
    names = pa.array(sample_ids, pa.string())
    table = pa.table({
        "sample_id": names,
        "label": pa.array(labels, pa.int32()),
        "origin": names if origins is None else pa.array(origins, pa.string()),
        **columns,
    })  # fmt: skip
    hashes = [hashlib.sha256(name.encode()).digest() for name in sample_ids]
    order = sorted(range(len(hashes)), key=hashes.__getitem__)
    return table.take(pa.array(order, pa.int64()))


def identify(stem: str, facts: Iterable[str]) -> str:
    """A name for images of which these facts hold."""
    digest = hashlib.sha256()
    for number, fact in enumerate(facts):
        digest.update(f"\n{fact}".encode() if number else fact.encode())
    return f"{stem}-{digest.hexdigest()[:12]}"


def name_classes(words: list[str]) -> tuple[tuple[str, ...], list[int]]:
    """Classes and labels of images that these words label.

    Whole numbers are the labels themselves, counted from 0; other words are names of classes,
    numbered in their order.
    """
    if all(word.isascii() and word.isdigit() for word in words):
        labels = [int(word) for word in words]
        return tuple(str(label) for label in range(max(labels) + 1)), labels
    classes = tuple(sorted(set(words)))
    label_of = {name: label for label, name in enumerate(classes)}
    return classes, [label_of[word] for word in words]
