"""Where images and their masks lie: Pascal VOC's layout, and two folders."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bt_ray.data.sources.kinds import IMAGE_SUFFIXES, set_aside
from bt_ray.errors import DataError

VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
)  # fmt: skip
"""By their indices in VOC's masks."""
_IMAGES, _MASKS, _LISTS = "JPEGImages", "SegmentationClass", "ImageSets/Segmentation"


@dataclass(frozen=True)
class MaskedImages:
    """Image files, and the file of each one's mask."""

    images: tuple[Path, ...]
    masks: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.images)


def read_voc(root: Path, year: str, split: str) -> MaskedImages:
    """The images that ImageSets/Segmentation/SPLIT.txt names.

    Args:
      root: the folder that VOCdevkit lies in, VOCdevkit itself, or VOCdevkit/VOC{year}.
    Raises: DataError if the list, an image or a mask is missing.
    """
    folder = _voc_folder(root.expanduser(), year)
    listed = folder / _LISTS / f"{split}.txt"
    try:
        names = listed.read_text().split()
    except OSError as error:
        raise DataError(
            f"{root} holds no VOCdevkit/VOC{year}/{_LISTS}/{split}.txt; give the folder that "
            f"VOC{year} was unpacked in (--root), its --year and its splits."
        ) from error
    if not names:
        raise DataError(f"{listed} names no image.")
    images = tuple(folder / _IMAGES / f"{name}.jpg" for name in names)
    masks = tuple(folder / _MASKS / f"{name}.png" for name in names)
    for kind, files in (("image", images), ("mask", masks)):
        _check_present(kind, files, str(listed))
    return MaskedImages(images, masks)


def _voc_folder(root: Path, year: str) -> Path:
    candidates = (root / "VOCdevkit" / f"VOC{year}", root / f"VOC{year}", root)
    return next((folder for folder in candidates if (folder / _LISTS).is_dir()), candidates[0])


def _check_present(kind: str, files: Sequence[Path], listed: str) -> None:
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(files)} {kind}s that {listed} names are missing, such as "
            f"{missing[0]}; unpack them, or take them out of the list."
        )


def read_folders(images: Path, masks: Path) -> MaskedImages:
    """The images of a folder, and of another the PNGs that are called alike, sorted by name.

    Raises: DataError if a folder or a mask is missing, there is no image, or two are called alike.
    """
    files = sorted(file for file in _files(images) if _is_image(file.name))
    if not files:
        raise DataError(f"There is no image in {images}.")
    stems = [file.stem for file in files]
    twice = next((stem for stem in stems if stems.count(stem) > 1), None)
    if twice is not None:
        raise DataError(f"{images} has several images {twice!r}; a mask is found by this name.")
    _files(masks)
    found = tuple(masks / f"{stem}.png" for stem in stems)
    missing = [file for file in found if not file.is_file()]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(files)} images in {images} have no mask; there is no "
            f"{missing[0]}."
        )
    return MaskedImages(tuple(files), found)


def _files(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise DataError(f"The folder {folder} cannot be read ({error.strerror}).") from error


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES) and set_aside(name) is None
