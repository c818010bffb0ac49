"""A detection data set as it lies on this machine: image files, and the objects in each."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bt_ray.detection.annotations import Annotations
from bt_ray.errors import DataError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layout:
    """The images of a split, and their objects.

    Args:
      files: paths of the images, on this machine.
      names: of the images, stable, each another one.
      annotations: in the order of the files.
    Raises: DataError if there is no image, or two have one name.
    """

    files: tuple[str, ...]
    names: tuple[str, ...]
    annotations: Annotations

    def __post_init__(self) -> None:
        if not self.files:
            raise DataError("The annotations name no image; give a split that does.")
        for words in (self.names, self.files):
            [(word, count)] = Counter(words).most_common(1)
            if count > 1:
                raise DataError(
                    f"The image {word!r} is named {count} times; name each image once, in one of "
                    "the splits that are read together."
                )

    def __len__(self) -> int:
        return len(self.files)

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> "Layout":
        """Some of the images, in the order of `rows`."""
        return Layout(
            tuple(self.files[row] for row in rows),
            tuple(self.names[row] for row in rows),
            self.annotations.take(rows),
        )

    def with_objects(self) -> "Layout":
        """The images to train on: those without any object but crowds are left out, and counted.

        For scoring they stay: what is found in them is wrong.

        Raises: DataError if no image is left.
        Source: detectron2, `filter_images_with_only_crowd_annotations`.
        """
        rows = np.flatnonzero(self.annotations.num_learnt)
        if not len(rows):
            raise DataError("No image has an object to learn from; give annotations that have.")
        if len(rows) == len(self):
            return self
        _log.warning(
            "%s of %s images have no object to learn from, and are not trained on.",
            f"{len(self) - len(rows):,}", f"{len(self):,}",
        )  # fmt: skip
        return self.take(rows)


def check_files(files: Sequence[str], named_by: str) -> None:
    """Raises DataError if images are missing.

    Args:
      named_by: what names them.
    """
    missing = [file for file in files if not Path(file).is_file()]
    if missing:
        raise DataError(
            f"{len(missing):,} of {len(files):,} images that {named_by} names are missing, such as "
            f"{missing[0]}; unpack them, or take them out of it."
        )


def number_classes(
    found: Sequence[str], classes: Sequence[str] | None, first_of: dict[str, str]
) -> tuple[tuple[str, ...], dict[str, int]]:
    """The classes, in the order of their labels, and each one's label.

    Args:
      found: names that the annotations have.
      classes: those that there are to be; none: those found.
      first_of: where the first object of each class that has objects is, for messages.
    Raises: DataError if there are objects of other classes than those.
    """
    names = tuple(found if classes is None else classes)
    label_of = {name: label for label, name in enumerate(names)}
    for name, where in first_of.items():
        if name not in label_of:
            raise DataError(
                f"{where} is of the class {name!r}, which is none of {', '.join(names[:10])}"
                f"{' …' if len(names) > 10 else ''}; training and test images must have the same "
                "classes."
            )
    return names, label_of
