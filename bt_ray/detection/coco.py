"""COCO's layout: a JSON file of instances, and a folder of images."""

import logging
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from bt_ray.detection.annotations import Annotations, ObjectTable
from bt_ray.detection.boxes import BoxCheck
from bt_ray.detection.coco_masks import encode_segmentation
from bt_ray.detection.json_items import read_members
from bt_ray.detection.layouts import Layout, check_files, number_classes
from bt_ray.errors import DataError

_log = logging.getLogger(__name__)
_ARRAYS = ("images", "annotations", "categories")


def coco_place(root: Path | str, split: str) -> tuple[Path, Path]:
    """COCO's file of instances of a split, such as `train2017`, and its folder of images.

    Args:
      root: where COCO was unpacked: annotations/instances_train2017.json, train2017/, …
    """
    folder = Path(root).expanduser().resolve()
    return folder / "annotations" / f"instances_{split}.json", folder / split


def read_coco(
    annotation_file: Path | str,
    image_folder: Path | str,
    *,
    masks: bool,
    classes: Sequence[str] | None = None,
) -> Layout:
    """The images that a file of instances names, and their objects; names are the files'.

    Boxes are x, y, width and height in pixels. Crowds are kept, and marked. The file is read item
    by item: what is in memory is one item, and what is kept of each.

    Args:
      masks: whether the objects' masks are read, too.
      classes: in the order of the labels; none: all categories, in the order of their ids.
    Raises: DataError if the file is damaged, or names images or categories that are not there or
      are there twice; if an object has another class; if a box or a mask is not one
      (`boxes.BoxCheck`, `coco_masks.encode_segmentation`).
    """
    file = Path(annotation_file).expanduser().resolve()
    folder = Path(image_folder).expanduser().resolve()
    reading = _Reading(file, masks)
    reading.read()
    files = tuple(str(folder / name) for name in reading.names)
    check_files(files, str(file))
    return Layout(files, tuple(reading.names), reading.annotations(classes))


@dataclass
class _Reading:
    """What was read of a file until now."""

    file: Path
    masks: bool
    names: list[str] = field(default_factory=list)
    heights: "array[int]" = field(default_factory=lambda: array("i"))
    widths: "array[int]" = field(default_factory=lambda: array("i"))
    row_of: dict[Any, int] = field(default_factory=dict)
    """Rows of images by their ids."""
    categories: dict[Any, str] = field(default_factory=dict)
    images: "array[int]" = field(default_factory=lambda: array("q"))
    boxes: "array[float]" = field(default_factory=lambda: array("f"))
    kinds: list[Any] = field(default_factory=list)
    """Ids of the objects' categories."""
    is_crowd: "array[int]" = field(default_factory=lambda: array("b"))
    run_lengths: list[bytes] = field(default_factory=list)
    first_of: dict[Any, str] = field(default_factory=dict)
    num_without_polygon: int = 0

    def read(self) -> None:
        """Reads the file; twice, if objects come before the images."""
        self.check = BoxCheck(str(self.file))
        num_seen, is_early = 0, False
        for name, item in read_members(self.file, _ARRAYS):
            if name == "images":
                self._take("image", len(self.names), item)
            elif name == "categories":
                self._take("category", len(self.categories), item)
            elif name == "annotations":
                is_early = is_early or not self.names
                if not is_early:
                    self._take("object", num_seen, item)
                num_seen += 1
        if is_early:
            objects = (item for name, item in read_members(self.file, _ARRAYS)
                       if name == "annotations")  # fmt: skip
            for number, item in enumerate(objects):
                self._take("object", number, item)
        self.check.say()
        if self.num_without_polygon:
            _log.warning(
                "%s: %s objects have no polygon of three points, and are left out.",
                self.file, f"{self.num_without_polygon:,}",
            )  # fmt: skip

    def _take(self, kind: str, number: int, item: Any) -> None:
        """Takes an item. Raises: DataError if something is missing from it."""
        take = {"image": self._take_image, "category": self._take_category}.get(
            kind, self._take_object
        )
        try:
            take(item)
        except DataError:
            raise
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DataError(
                f"{self.file}, {kind} number {number} (from 0) is damaged: {str(item)[:80]!r} "
                f"({type(error).__name__}: {error}); mend the annotation."
            ) from error

    def _take_image(self, item: dict[str, Any]) -> None:
        number, name = item["id"], item["file_name"]
        height, width = int(item["height"]), int(item["width"])
        if number in self.row_of:
            raise DataError(f"{self.file} has two images of id {number}; number each another way.")
        if height < 1 or width < 1:
            raise DataError(
                f"{self.file} says that {name!r} has {width}×{height} pixels; mend the annotation."
            )
        if not name or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise DataError(
                f"{self.file} names the image {name!r}, which is no path below the folder of "
                "images; give file_name without it."
            )
        self.row_of[number] = len(self.names)
        self.names.append(name)
        self.heights.append(height)
        self.widths.append(width)

    def _take_category(self, item: dict[str, Any]) -> None:
        number, name = item["id"], str(item["name"])
        if number in self.categories or name in self.categories.values():
            raise DataError(
                f"{self.file} has two categories of id {number} or of name {name!r}; give each an "
                "id and a name of its own."
            )
        self.categories[number] = name

    def _take_object(self, item: dict[str, Any]) -> None:
        row = self.row_of.get(item["image_id"])
        where = f"{self.file}, object {item.get('id', '?')}"
        if row is None:
            raise DataError(
                f"{where} is in the image {item['image_id']!r}, which is none of the file's "
                "images; mend the annotation."
            )
        where = f"{where} in {self.names[row]}"
        left, top, width, height = map(float, item["bbox"])
        height_px, width_px = self.heights[row], self.widths[row]
        box = self.check.fit((left, top, left + width, top + height), width_px, height_px, where)
        if box is None:
            return
        if self.masks:
            mask = encode_segmentation(item.get("segmentation"), height_px, width_px, where)
            if mask is None:
                self.num_without_polygon += 1
                return
            self.run_lengths.append(mask)
        kind = item["category_id"]
        self.first_of.setdefault(kind, where)
        self.kinds.append(kind)
        self.images.append(row)
        self.boxes.extend(box)
        self.is_crowd.append(bool(item.get("iscrowd", 0)))

    def annotations(self, classes: Sequence[str] | None) -> Annotations:
        """All of it. Raises: DataError if an object's category is unknown."""
        for kind, where in self.first_of.items():
            if kind not in self.categories:
                raise DataError(
                    f"{where} has the category {kind!r}, which is none of the file's categories; "
                    "mend the annotation."
                )
        found = [self.categories[kind] for kind in sorted(self.categories)]
        first_of = {self.categories[kind]: where for kind, where in self.first_of.items()}
        names, label_of = number_classes(found, classes, first_of)
        label_of_kind = {kind: label_of[self.categories[kind]] for kind in self.first_of}
        objects = ObjectTable(
            heights=self.heights,
            widths=self.widths,
            images=np.array(self.images, np.int64),
            boxes=np.array(self.boxes, np.float32).reshape(-1, 4),
            labels=np.array([label_of_kind[kind] for kind in self.kinds], np.int64),
            is_crowd=np.array(self.is_crowd, bool),
            is_difficult=np.zeros(len(self.kinds), bool),
            masks=self.run_lengths if self.masks else None,
        )
        return Annotations.from_table(objects, names)
