"""What is in the images: boxes, classes, masks; one entry an image, in the order of the shards."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from bt_ray.errors import DataError

_SCHEMA = pa.schema(
    [
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("boxes", pa.list_(pa.list_(pa.float32(), 4))),
        ("labels", pa.list_(pa.int64())),
        ("is_crowd", pa.list_(pa.bool_())),
        ("is_difficult", pa.list_(pa.bool_())),
        ("masks", pa.list_(pa.binary())),
    ]
)
_CLASSES = b"classes"


@dataclass(frozen=True, kw_only=True)
class Objects:
    """The objects of one image, in pixels of the image as it is decoded."""

    height: int
    width: int
    boxes: NDArray[np.float32]
    """(m, 4): left, top, right and bottom edge; right and bottom are not part of the box."""
    labels: NDArray[np.int64]
    """(m,), 0 to the number of classes − 1."""
    is_crowd: NDArray[np.bool_]
    """(m,), regions of many objects: neither trained on nor, as COCO has it, counted."""
    is_difficult: NDArray[np.bool_]
    """(m,), trained on; VOC's rule does not count them."""
    masks: tuple[bytes, ...] | None = None
    """COCO's compressed run lengths of each object's mask, of the whole image; none where there
    are boxes alone."""

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, kw_only=True)
class ObjectTable:
    """The objects of n images in columns, m objects in all, in any order."""

    heights: Sequence[int]
    widths: Sequence[int]
    """Of the images, (n,)."""
    images: NDArray[np.int64]
    """(m,), the number of each object's image."""
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    is_crowd: NDArray[np.bool_]
    is_difficult: NDArray[np.bool_]
    masks: Sequence[bytes] | None = None
    """As in `Objects`, (m, …)."""


class Annotations(Sequence[Objects]):
    """The objects of all images of a data set.

    It is a table in memory, or one that is mapped from a file, so that a worker holds the rows
    that it looks at and no more.
    """

    def __init__(self, table: pa.Table, classes: Sequence[str]) -> None:
        self._table, self.classes = table.combine_chunks(), tuple(classes)

    @classmethod
    def of(cls, images: Sequence[Objects], classes: Sequence[str]) -> "Annotations":
        """Of these images, in this order; either all that have objects have masks, or none."""

        def column(name: str, empty: NDArray[Any]) -> NDArray[Any]:
            return np.concatenate([empty, *(getattr(objects, name) for objects in images)])

        has_masks = any(objects.masks is not None for objects in images)
        table = ObjectTable(
            heights=[objects.height for objects in images],
            widths=[objects.width for objects in images],
            images=np.repeat(np.arange(len(images)), [len(objects) for objects in images]),
            boxes=column("boxes", np.empty((0, 4), np.float32)),
            labels=column("labels", np.empty(0, np.int64)),
            is_crowd=column("is_crowd", np.empty(0, bool)),
            is_difficult=column("is_difficult", np.empty(0, bool)),
            masks=[m for objects in images for m in objects.masks or ()] if has_masks else None,
        )
        return cls.from_table(table, classes)

    @classmethod
    def from_table(cls, objects: ObjectTable, classes: Sequence[str]) -> "Annotations":
        """Of these objects; those of one image keep their order."""
        order = np.argsort(objects.images, kind="stable")
        count = len(objects.heights)
        ends = np.searchsorted(objects.images[order], np.arange(count + 1)).astype(np.int32)

        def lists(values: Any) -> pa.Array:
            return pa.ListArray.from_arrays(ends, values)

        boxes = np.ascontiguousarray(objects.boxes[order], np.float32).ravel()
        masks = pa.nulls(count, _SCHEMA.field("masks").type)
        if objects.masks is not None:
            masks = lists(pa.array([objects.masks[i] for i in order.tolist()], pa.binary()))
        columns = [
            pa.array(objects.heights, pa.int32()),
            pa.array(objects.widths, pa.int32()),
            lists(pa.FixedSizeListArray.from_arrays(pa.array(boxes), 4)),
            lists(pa.array(objects.labels[order], pa.int64())),
            lists(pa.array(objects.is_crowd[order], pa.bool_())),
            lists(pa.array(objects.is_difficult[order], pa.bool_())),
            masks,
        ]
        return cls(pa.Table.from_arrays(columns, schema=_SCHEMA), classes)

    @classmethod
    def open(cls, file: Path) -> "Annotations":
        """Those that `write` put into this file, which is mapped.

        Raises: DataError if it holds none.
        """
        try:
            table = pa.ipc.open_file(pa.memory_map(str(file))).read_all()
            classes = json.loads(table.schema.metadata[_CLASSES])
        except (OSError, pa.ArrowInvalid, KeyError, TypeError, ValueError) as error:
            raise DataError(f"{file} holds no annotations of objects ({error}).") from error
        return cls(table, classes)

    def write(self, file: Path) -> None:
        """Writes all of them into one file."""
        schema = _SCHEMA.with_metadata({_CLASSES: json.dumps(self.classes)})
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            writer.write_table(self._table.cast(schema))

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __getitem__(self, row: Any) -> Any:
        """The objects of an image."""
        entry = self._table.slice(int(row), 1).to_pylist()[0]
        masks = entry["masks"]
        return Objects(
            height=entry["height"],
            width=entry["width"],
            boxes=np.array(entry["boxes"], np.float32).reshape(-1, 4),
            labels=np.array(entry["labels"], np.int64),
            is_crowd=np.array(entry["is_crowd"], bool),
            is_difficult=np.array(entry["is_difficult"], bool),
            masks=None if masks is None else tuple(masks),
        )

    def __iter__(self) -> Iterator[Objects]:
        return (self[row] for row in range(len(self)))

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> "Annotations":
        """Those of some images, in the order of `rows`."""
        return Annotations(self._table.take(pa.array(rows, pa.int64())), self.classes)

    @property
    def heights(self) -> NDArray[np.int64]:
        """Of all images, in pixels."""
        return np.asarray(self._table["height"], np.int64)

    @property
    def widths(self) -> NDArray[np.int64]:
        """Of all images, in pixels."""
        return np.asarray(self._table["width"], np.int64)

    @property
    def num_learnt(self) -> NDArray[np.int64]:
        """Of each image, how many of its objects a detector learns: all but crowds."""
        crowds = self._table["is_crowd"].combine_chunks()
        lengths = crowds.value_lengths().to_numpy(zero_copy_only=False)
        images = np.repeat(np.arange(len(self)), lengths)
        learnt = ~crowds.flatten().to_numpy(zero_copy_only=False).astype(bool)
        return np.bincount(images[learnt], minlength=len(self))

    @property
    def digest(self) -> str:
        """SHA-256 of the classes and of all objects, in their order."""
        found = hashlib.sha256(json.dumps(self.classes).encode())
        for column in self._table.columns:
            for chunk in column.chunks:
                _add(found, chunk)
        return found.hexdigest()

    @property
    def has_masks(self) -> bool:
        """Whether every image with objects has masks."""
        is_bare = self._table["masks"].is_null().to_numpy()
        return not (is_bare & (pc.list_value_length(self._table["labels"]).to_numpy() > 0)).any()


def _add(digest: Any, column: pa.Array) -> None:
    """Adds a column's lengths and values to a digest, however they lie in memory."""
    if pa.types.is_list(column.type) or pa.types.is_binary(column.type):
        is_list = pa.types.is_list(column.type)
        lengths = pc.list_value_length(column) if is_list else pc.binary_length(column)
        digest.update(lengths.fill_null(-1).to_numpy(zero_copy_only=False).tobytes())
        if not is_list:
            digest.update(b"".join(column.to_pylist()))
    if isinstance(column, pa.ListArray | pa.FixedSizeListArray):
        _add(digest, column.flatten())
    elif not pa.types.is_binary(column.type):
        digest.update(column.to_numpy(zero_copy_only=False).tobytes())
