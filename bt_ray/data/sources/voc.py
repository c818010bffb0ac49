"""Pascal VOC 2007: the images, and of which classes each one has objects."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bt_ray.data.sources.voc_annotation import VocObject, parent_of_devkit, read_annotation
from bt_ray.errors import DataError

Split = Literal["trainval", "test"]

_YEAR = "2007"


@dataclass(frozen=True)
class VocImages:
    """The images of a split, and their classes.

    `targets` is int8 (n, classes): 1 if the image has an object of the class, −1 if it has none, 0
    if all its objects of the class are marked difficult; 0 is neither trained on nor scored.
    """

    files: tuple[Path, ...]
    targets: NDArray[np.int8]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.files)


def read_voc(root: Path, split: Split) -> VocImages:
    """The images of a split; the classes are sorted by name.

    Args:
      root: the folder that VOCdevkit/VOC2007 lies in, or one of these two.
    Raises: DataError if a list, an annotation or an image is missing; if an annotation is damaged,
      or has a box that is not within its image.
    """
    from torchvision.datasets import VOCDetection  # here: it takes as long to import as torch

    root = parent_of_devkit(root)
    try:
        dataset = VOCDetection(root, year=_YEAR, image_set=split)
    except (RuntimeError, OSError) as error:
        raise DataError(
            f"{root} holds no VOCdevkit/VOC2007 with ImageSets/Main/{split}.txt; give the folder "
            "that VOC2007 was unpacked in."
        ) from error
    found = [_read_objects(Path(file)) for file in dataset.annotations]
    files = tuple(Path(image) for image in dataset.images)
    if not files:
        raise DataError(f"{split}.txt in {root} names no image.")
    for file in files:
        if not file.is_file():
            raise DataError(f"The image {file}, which {split}.txt names, is missing; unpack it.")
    classes = tuple(sorted({name for objects in found for name, _ in objects}))
    if not classes:
        raise DataError(f"No annotation of {split} in {root} has an object, so no labels.")
    return VocImages(files, np.stack([_targets(objects, classes) for objects in found]), classes)


def _read_objects(file: Path) -> list[tuple[str, bool]]:
    """Class of each object of an annotation, and whether it is marked difficult."""
    annotation = read_annotation(file)
    for found in annotation.objects:
        _check_box(file, found, annotation.width, annotation.height)
    return [(found.name, found.is_difficult) for found in annotation.objects]


def _check_box(file: Path, found: VocObject, width: int, height: int) -> None:
    left, top, right, bottom = found.box
    if not (0 <= left <= right <= width and 0 <= top <= bottom <= height):
        raise DataError(
            f"{file} has a box of {found.name!r}, {' '.join(f'{side:g}' for side in found.box)}, "
            f"that leaves its image of {width}×{height} pixels; mend the annotation."
        )


def _targets(objects: list[tuple[str, bool]], classes: tuple[str, ...]) -> NDArray[np.int8]:
    row = np.full(len(classes), -1, np.int8)
    for name, is_difficult in objects:
        place = classes.index(name)
        row[place] = max(row[place], 0 if is_difficult else 1)
    return row
