"""Pascal VOC 2007: the images, and of which classes each one has objects."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from bt_ray.errors import DataError

Split = Literal["trainval", "test"]

_YEAR = "2007"
_SIDES = ("xmin", "ymin", "xmax", "ymax")


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

    root = _parent(root)
    try:
        dataset = VOCDetection(root, year=_YEAR, image_set=split)
    except (RuntimeError, OSError) as error:
        raise DataError(
            f"{root} holds no VOCdevkit/VOC2007 with ImageSets/Main/{split}.txt; give the folder "
            "that VOC2007 was unpacked in."
        ) from error
    found = [_read_objects(Path(file), VOCDetection) for file in dataset.annotations]
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


def _parent(root: Path) -> Path:
    root = root.expanduser().resolve()
    if root.name == f"VOC{_YEAR}":
        return root.parents[1]
    return root.parent if root.name == "VOCdevkit" else root


def _read_objects(file: Path, reader: Any) -> list[tuple[str, bool]]:
    """Class of each object of an annotation, and whether it is marked difficult."""
    try:
        tree = reader.parse_voc_xml(ElementTree.parse(file).getroot())["annotation"]
        size = (int(tree["size"]["width"]), int(tree["size"]["height"]))
        objects = [
            (str(found["name"]), found.get("difficult", "0") == "1", _box(found["bndbox"]))
            for found in tree["object"]
        ]
    except FileNotFoundError as error:
        raise DataError(
            f"The annotation {file} is missing; unpack it, or take the image out of the list in "
            "ImageSets/Main."
        ) from error
    except (ElementTree.ParseError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"The annotation {file} is damaged ({type(error).__name__}: {error}); unpack it again."
        ) from error
    for name, _, box in objects:
        _check_box(file, name, box, *size)
    return [(name, is_difficult) for name, is_difficult, _ in objects]


def _box(tree: dict[str, str]) -> list[float]:
    return [float(tree[side]) for side in _SIDES]


def _check_box(file: Path, name: str, box: list[float], width: int, height: int) -> None:
    left, top, right, bottom = box
    if not (0 <= left <= right <= width and 0 <= top <= bottom <= height):
        raise DataError(
            f"{file} has a box of {name!r}, {' '.join(f'{side:g}' for side in box)}, that leaves "
            f"its image of {width}×{height} pixels; mend the annotation."
        )


def _targets(objects: list[tuple[str, bool]], classes: tuple[str, ...]) -> NDArray[np.int8]:
    row = np.full(len(classes), -1, np.int8)
    for name, is_difficult in objects:
        place = classes.index(name)
        row[place] = max(row[place], 0 if is_difficult else 1)
    return row
