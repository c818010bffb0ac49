"""Where images come from: the embedded digits, or any folder of image files."""

import hashlib
import io
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from bt_ray.data.cifar10 import cifar10_folder
from bt_ray.errors import DataError

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")
_DIGITS_TEST_EVERY = 5
_TRAIN_SPLITS, _TEST_SPLITS = ("train",), ("val", "valid", "validation", "test")


@dataclass(frozen=True)
class SourceImage:
    """One encoded image on its way into a shard."""

    sample_id: str
    """Stable name of the image within its source."""
    encoded: bytes
    label: int | None


@dataclass(frozen=True)
class Source:
    """A countable collection of encoded images.

    `identity` changes when the images do; `classes` is empty where there are no labels.
    """

    identity: str
    classes: tuple[str, ...]
    num_images: int
    num_bytes: int
    """Of all encoded images and their names."""
    images: Iterator[SourceImage]


def open_source(name: str) -> Source:
    """The images that `name` means.

    Args:
      name: a folder, or `digits` or `digits:test` (the embedded data), or `cifar10` or
        `cifar10:test` (downloaded once, unless there is a folder of that name).
    Raises: DataError if there is no such folder, no image in it, or nothing to download from.
    """
    if name in ("digits", "digits:test"):
        return _digits(test=name.endswith(":test"))
    folder = Path(name).expanduser()
    if name in ("cifar10", "cifar10:test") and not folder.is_dir():
        folder = cifar10_folder("test" if name.endswith(":test") else "train")
    return _image_folder(folder)


def _digits(*, test: bool) -> Source:
    """scikit-learn's 1,797 handwritten digits as JPEG; every fifth is held out for testing."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = []
    for i, (pixels, label) in enumerate(zip(data.images, data.target, strict=True)):
        if (i % _DIGITS_TEST_EVERY == 0) == test:
            levels = (pixels * (255 / 16)).round().astype("uint8")
            buffer = io.BytesIO()
            Image.fromarray(levels).save(buffer, format="JPEG", quality=95)
            images.append(SourceImage(f"digit-{i:04d}", buffer.getvalue(), int(label)))
    return Source(
        identity=f"digits-{'test' if test else 'train'}",
        classes=tuple(str(digit) for digit in range(10)),
        num_images=len(images),
        num_bytes=sum(len(image.sample_id) + len(image.encoded) for image in images),
        images=iter(images),
    )


def _image_folder(folder: Path) -> Source:
    """Every image file below `folder`, in an order that does not follow its name.

    The order is that of the paths' hashes: shuffled, so that any stretch of it is a fair
    sample of the folder, and the same every time. The images are labelled if each of them
    lies in a subfolder of `folder`: the first level of subfolders then are the classes, in
    the order of their names.

    Raises: DataError if there is none, or if the subfolders are the splits of a data set.
    """
    if not folder.is_dir():
        raise DataError(f"There is no folder {str(folder)!r}; give a folder of images or shards.")
    paths = sorted(_image_paths(folder), key=lambda path: hashlib.sha256(path.encode()).digest())
    if not paths:
        raise DataError(
            f"There is no image below {str(folder)!r}; known are {', '.join(IMAGE_SUFFIXES)}."
        )
    is_labelled = all("/" in path for path in paths)
    classes = tuple(sorted({path.split("/")[0] for path in paths})) if is_labelled else ()
    if is_labelled:
        _refuse_splits(folder, classes)
        _name_empty_classes(folder, classes)
    label_of = {name: label for label, name in enumerate(classes)}

    def images() -> Iterator[SourceImage]:
        for path in paths:
            label = label_of.get(path.split("/")[0])
            yield SourceImage(path, (folder / path).read_bytes(), label)

    identity, num_bytes = _identity(folder, paths)
    return Source(
        identity=identity,
        classes=classes,
        num_images=len(paths),
        num_bytes=num_bytes,
        images=images(),
    )


def _image_paths(folder: Path) -> Iterator[str]:
    """Paths of the image files below `folder`, relative to it, with slashes."""
    for root, _, files in os.walk(folder, followlinks=True):
        below = Path(root).relative_to(folder).as_posix()
        prefix = "" if below == "." else f"{below}/"
        for file in files:
            if file.lower().endswith(IMAGE_SUFFIXES):
                yield prefix + file


def _refuse_splits(folder: Path, classes: tuple[str, ...]) -> None:
    """Raises DataError if what would be classes are training and held-out images."""
    if not set(classes) <= {*_TRAIN_SPLITS, *_TEST_SPLITS}:
        return
    train = next((name for name in _TRAIN_SPLITS if name in classes), classes[0])
    test = next((name for name in _TEST_SPLITS if name in classes and name != train), None)
    way_out = f"--data.train {folder / train}" + (f" --data.test {folder / test}" if test else "")
    raise DataError(
        f"The folders in {str(folder)!r} ({', '.join(classes)}) are splits of a data set, not "
        f"classes; give {way_out}."
    )


def _name_empty_classes(folder: Path, classes: tuple[str, ...]) -> None:
    """Warns of each subfolder that would be a class but holds no image."""
    for entry in sorted(folder.iterdir()):
        if entry.name not in classes and not entry.name.startswith(".") and entry.is_dir():
            logger.warning("There is no image in %s: the class is left out.", entry)


def _identity(folder: Path, paths: list[str]) -> tuple[str, int]:
    """What names the folder's images, and their bytes, names included.

    The former is its name and a digest of its images' paths, sizes and times of change.
    """
    digest = hashlib.sha256(str(folder.resolve()).encode())
    num_bytes = 0
    for path in paths:
        facts = os.stat(f"{folder}/{path}")  # noqa: PTH116 - twice as fast, for 100,000 files
        digest.update(f"\n{path} {facts.st_size} {facts.st_mtime_ns}".encode())
        num_bytes += facts.st_size + len(path.encode())
    return f"{folder.resolve().name}-{digest.hexdigest()[:12]}", num_bytes
