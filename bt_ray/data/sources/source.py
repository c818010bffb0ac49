"""A source: an index of images, in the order in which shards will hold them, and their reader.

The index is one Arrow table, so a part of a source is a slice of that table. Any process can read
its part on its own; which process reads which part, and how often, does not change the result.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import pyarrow as pa

from bt_ray.data.location import first_line
from bt_ray.data.sources.found import Found
from bt_ray.errors import DataError


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
    """Reads the bytes of images; it is pickled to reach other processes."""

    def read(self, entries: pa.Table) -> Iterator[bytes]:
        """Yields the encoded image of each row of a source's index, in order. Raises: OSError."""


@dataclass(frozen=True)
class Source:
    """A countable, indexable collection of encoded images.

    Args:
      identity: a name that changes when the images do.
      classes: names of the labels; empty where there are none.
      entries: one row an image: `sample_id`, `label`, `origin`, and what the reader needs.
      num_bytes: of all encoded images and their names; an estimate if they are not encoded yet.
      name: the name that the user gave, without secrets.
      stored_order: columns that sort `entries` as they are stored, block by block (all columns
        but the last name the block); empty if each image can be read alone.
      found: what was found, taken and passed over; none if nothing was looked for.
    Raises: DataError if two images have one name.
    """

    identity: str
    classes: tuple[str, ...]
    entries: pa.Table
    reader: Reader
    num_bytes: int
    name: str = ""
    stored_order: tuple[str, ...] = ()
    found: Found | None = None

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
        """A source of these rows alone; `num_bytes` stays that of the whole source."""
        return replace(self, entries=self.entries.take(pa.array(rows, pa.int64())))

    def read(self) -> Iterator[SourceImage]:
        """Yields all images, in order.

        Raises: DataError if an image is missing or cannot be read.
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
    """The index of images with these names, in the order of the names' SHA-256.

    That order looks random, so any consecutive rows are a fair sample of the whole; and it is the
    same every time.
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
    """An identity: `stem` and a digest of facts, such as paths and sizes of the files."""
    digest = hashlib.sha256()
    for number, fact in enumerate(facts):
        text = f"\n{fact}" if number else fact
        digest.update(text.encode("utf-8", "surrogateescape"))
    return f"{stem}-{digest.hexdigest()[:12]}"


def name_classes(words: list[str]) -> tuple[tuple[str, ...], list[int]]:
    """The classes, and each image's label, from one word an image.

    If all words are whole numbers, they are the labels. Otherwise they are names of classes, which
    are sorted and numbered from 0.
    """
    if all(word.isascii() and word.isdigit() for word in words):
        labels = [int(word) for word in words]
        return tuple(str(label) for label in range(max(labels) + 1)), labels
    classes = tuple(sorted(set(words)))
    label_of = {name: label for label, name in enumerate(classes)}
    return classes, [label_of[word] for word in words]
