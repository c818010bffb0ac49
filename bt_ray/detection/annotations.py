"""What is in the images: boxes, classes, masks; one entry an image, in the order of the shards."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
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


class Annotations(Sequence[Objects]):
    """The objects of all images of a data set.

    It is a table in memory, or one that is mapped from a file, so that a worker holds the rows
    that it looks at and no more.
    """

    def __init__(self, table: pa.Table, classes: Sequence[str]) -> None:
        self._table, self.classes = table.combine_chunks(), tuple(classes)

    @classmethod
    def of(cls, images: Sequence[Objects], classes: Sequence[str]) -> "Annotations":
        """Of these images, in this order."""
        rows = [
            {
                "height": objects.height,
                "width": objects.width,
                "boxes": objects.boxes.reshape(-1, 4).tolist(),
                "labels": objects.labels.tolist(),
                "is_crowd": objects.is_crowd.tolist(),
                "is_difficult": objects.is_difficult.tolist(),
                "masks": None if objects.masks is None else list(objects.masks),
            }
            for objects in images
        ]
        return cls(pa.Table.from_pylist(rows, schema=_SCHEMA), classes)

    @classmethod
    def open(cls, file: Path) -> "Annotations":
        """Those that `write` put into this file, which is mapped.

        Raises: DataError if it holds none.
        """
        try:
            table = pa.ipc.open_file(pa.memory_map(str(file))).read_all()
            classes = table.schema.metadata[_CLASSES].decode().split("\n")
        except (OSError, pa.ArrowInvalid, KeyError, TypeError) as error:
            raise DataError(f"{file} holds no annotations of objects ({error}).") from error
        return cls(table, classes)

    def write(self, file: Path) -> None:
        """Writes all of them into one file."""
        schema = _SCHEMA.with_metadata({_CLASSES: "\n".join(self.classes).encode()})
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

    @property
    def has_masks(self) -> bool:
        """Whether every image with objects has masks."""
        return all(objects.masks is not None for objects in self if len(objects))
