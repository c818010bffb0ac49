"""Pascal VOC's layout: images, and the boxes of their objects."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bt_ray.data.sources.kinds import IMAGE_SUFFIXES
from bt_ray.data.sources.voc_annotation import parent_of_devkit, read_annotation
from bt_ray.detection.annotations import Annotations, ObjectTable
from bt_ray.detection.boxes import BoxCheck
from bt_ray.detection.layouts import Layout, check_files, number_classes
from bt_ray.errors import DataError

VOC07_12_TRAINVAL = (("2007", "trainval"), ("2012", "trainval"))
"""What Table 4's detectors are trained on."""
VOC07_TEST = (("2007", "test"),)
"""What they are scored on."""
_LISTS = Path("ImageSets", "Main")


def read_voc(
    root: Path | str, splits: Sequence[tuple[str, str]], *, classes: Sequence[str] | None = None
) -> Layout:
    """The images of some splits of some years together; names are paths below VOCdevkit.

    Boxes are written with pixels counted from 1, and the last ones are part of the box: 1 is taken
    from left and top, as in detectron2. Difficult objects are kept, and marked.

    Args:
      root: the folder that VOCdevkit lies in, VOCdevkit itself, or a year's folder in it.
      splits: years and names of splits, such as `VOC07_12_TRAINVAL`.
      classes: in the order of the labels; none: those that the objects have, by name.
    Raises: DataError if a list, an annotation or an image is missing, is named twice or is damaged;
      if an object has another class; if a box is not one (`boxes.BoxCheck`).
    """
    parent = parent_of_devkit(Path(root))
    reading = _Reading(BoxCheck(f"VOC in {parent}"))
    for year, split in splits:
        folder = parent / "VOCdevkit" / f"VOC{year}"
        way_out = f"give the folder that VOC{year} was unpacked in"
        reading.read_split(folder, f"VOC{year}/", split, f"VOCdevkit/VOC{year}", parent, way_out)
    return reading.layout(classes)


def read_voc_folder(
    folder: Path | str, splits: Sequence[str], *, classes: Sequence[str] | None = None
) -> Layout:
    """The images of some splits of a folder laid out as a year of VOC's; the rest is `read_voc`'s.

    Args:
      folder: with Annotations, ImageSets/Main and JPEGImages, whose images may be of any kind.
      splits: names of lists in ImageSets/Main.
    """
    folder = Path(folder).expanduser().resolve()
    reading = _Reading(BoxCheck(str(folder)))
    for split in splits:
        way_out = "give a folder with Annotations, ImageSets and JPEGImages"
        reading.read_split(folder, "", split, "list", folder, way_out)
    return reading.layout(classes)


@dataclass
class _Reading:
    """What was read until now."""

    check: BoxCheck
    files: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    heights: list[int] = field(default_factory=list)
    widths: list[int] = field(default_factory=list)
    images: list[int] = field(default_factory=list)
    boxes: list[tuple[float, ...]] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    is_difficult: list[bool] = field(default_factory=list)
    first_of: dict[str, str] = field(default_factory=dict)

    def read_split(
        self, folder: Path, prefix: str, split: str, what: str, root: Path, way_out: str
    ) -> None:
        """Adds the images of a list.

        Args:
          prefix: of the images' names.
          what, root: what is looked for, and where, for the message if there is no such list.
        """
        try:
            lines = (folder / _LISTS / f"{split}.txt").read_text("utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"{root} holds no {what} with ImageSets/Main/{split}.txt that can be read; "
                f"{way_out}."
            ) from error
        stems = [line.strip() for line in lines if line.strip()]
        if not stems:
            raise DataError(f"{split}.txt in {folder} names no image.")
        found = _images_in(folder / "JPEGImages")
        images = [found.get(stem, f"{stem}.jpg") for stem in stems]
        files = [str(folder / "JPEGImages" / image) for image in images]
        check_files(files, f"{split}.txt in {folder}")
        self.files += files
        self.names += [f"{prefix}JPEGImages/{image}" for image in images]
        for stem in stems:
            self._read_image(folder / "Annotations" / f"{stem}.xml")

    def _read_image(self, file: Path) -> None:
        annotation = read_annotation(file)
        width, height = annotation.width, annotation.height
        if width < 1 or height < 1:
            raise DataError(
                f"{file} says that its image has {width}×{height} pixels; mend the annotation."
            )
        for number, found in enumerate(annotation.objects, start=1):
            where = f"{file}, object {number} ({found.name!r})"
            left, top, right, bottom = found.box
            box = self.check.fit((left - 1, top - 1, right, bottom), width, height, where)
            self.first_of.setdefault(found.name, where)
            if box is not None:
                self.images.append(len(self.heights))
                self.boxes.append(box)
                self.words.append(found.name)
                self.is_difficult.append(found.is_difficult)
        self.heights.append(height)
        self.widths.append(width)

    def layout(self, classes: Sequence[str] | None) -> Layout:
        """All of it."""
        self.check.say()
        names, label_of = number_classes(sorted(self.first_of), classes, self.first_of)
        objects = ObjectTable(
            heights=self.heights,
            widths=self.widths,
            images=np.array(self.images, np.int64),
            boxes=np.array(self.boxes, np.float32).reshape(-1, 4),
            labels=np.array([label_of[word] for word in self.words], np.int64),
            is_crowd=np.zeros(len(self.words), bool),
            is_difficult=np.array(self.is_difficult, bool),
        )
        annotations = Annotations.from_table(objects, names)
        return Layout(tuple(self.files), tuple(self.names), annotations)


def _images_in(folder: Path) -> dict[str, str]:
    """The image files of a folder by their names without ending.

    Raises: DataError if two have one such name.
    """
    found: dict[str, str] = {}
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        if file.suffix.lower() in IMAGE_SUFFIXES:
            other = found.setdefault(file.stem, file.name)
            if other != file.name:
                raise DataError(
                    f"{folder} has {other} and {file.name}, and lists name images without their "
                    "ending: which is meant cannot be told; rename or remove one of them."
                )
    return found
