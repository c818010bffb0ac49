"""Where images come from: the embedded digits, or any folder of image files."""

import hashlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from bt_ray.errors import DataError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")
_DIGITS_TEST_EVERY = 5


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
    images: Iterator[SourceImage]


def open_source(name: str) -> Source:
    """The images that `name` means.

    Args:
      name: `digits` or `digits:test` (the embedded data), or a folder.
    Raises: DataError if there is no such folder or no image in it.
    """
    if name in ("digits", "digits:test"):
        return _digits(test=name.endswith(":test"))
    return _image_folder(Path(name).expanduser())


def _digits(*, test: bool) -> Source:
    """scikit-learn's 1,797 handwritten digits as JPEG; every fifth is held out for testing."""
    from sklearn.datasets import load_digits

    data = load_digits()
    picks = [i for i in range(len(data.target)) if (i % _DIGITS_TEST_EVERY == 0) == test]

    def images() -> Iterator[SourceImage]:
        for i in picks:
            levels = (data.images[i] * (255 / 16)).round().astype("uint8")
            buffer = io.BytesIO()
            Image.fromarray(levels).save(buffer, format="JPEG", quality=95)
            yield SourceImage(f"digit-{i:04d}", buffer.getvalue(), int(data.target[i]))

    return Source(
        identity=f"digits-{'test' if test else 'train'}",
        classes=tuple(str(digit) for digit in range(10)),
        num_images=len(picks),
        images=images(),
    )


def _image_folder(folder: Path) -> Source:
    """Every image file below `folder`, in an order that does not follow its name.

    The order is that of the paths' hashes: shuffled, so that any stretch of it is a fair
    sample of the folder, and the same every time. The images are labelled if each of them
    lies in a subfolder of `folder`: the first level of subfolders then are the classes, in
    the order of their names.
    """
    if not folder.is_dir():
        raise DataError(f"There is no folder {str(folder)!r}; give a folder of images or shards.")
    paths = sorted(
        (
            Path(root, file).relative_to(folder)
            for root, _, files in os.walk(folder, followlinks=True)
            for file in files
            if file.lower().endswith(IMAGE_SUFFIXES)
        ),
        key=lambda path: hashlib.sha256(path.as_posix().encode()).digest(),
    )
    if not paths:
        raise DataError(
            f"There is no image below {str(folder)!r}; known are {', '.join(IMAGE_SUFFIXES)}."
        )
    is_labelled = all(len(path.parts) > 1 for path in paths)
    classes = tuple(sorted({path.parts[0] for path in paths})) if is_labelled else ()
    label_of = {name: label for label, name in enumerate(classes)}

    def images() -> Iterator[SourceImage]:
        for path in paths:
            yield SourceImage(
                path.as_posix(), (folder / path).read_bytes(), label_of.get(path.parts[0])
            )

    return Source(
        identity=_identity(folder, paths), classes=classes, num_images=len(paths), images=images()
    )


def _identity(folder: Path, paths: list[Path]) -> str:
    """Name and digest of a folder: its images' paths, sizes and times of change."""
    digest = hashlib.sha256(str(folder.resolve()).encode())
    for path in paths:
        facts = (folder / path).stat()
        digest.update(f"\n{path} {facts.st_size} {facts.st_mtime_ns}".encode())
    return f"{folder.resolve().name}-{digest.hexdigest()[:12]}"
