"""Pictures with large shapes, as photos have, which hashes can tell apart."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.data.pictures import write_folder


def scene(number: int, size: tuple[int, int] = (64, 48)) -> Image.Image:
    """A smooth picture in colour that no other number has."""
    levels = np.random.default_rng(number).integers(0, 255, (9, 12, 3), dtype=np.uint8)
    return Image.fromarray(levels).resize(size, Image.Resampling.BICUBIC)


def encode(picture: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    """The picture as a file's bytes."""
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, **options)
    return buffer.getvalue()


def two_classes(folder: Path, *, each: int = 12, first: int = 0, **more: bytes) -> str:
    """A folder of scenes in two classes, and of more files; its path."""
    images = {
        f"{name}/{i}.jpg": encode(scene(first + 1000 * number + i))
        for number, name in enumerate(("cat", "dog")) for i in range(each)
    }  # fmt: skip
    return write_folder(folder, images | _as_paths(more))


def _as_paths(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """`cat_copy` is the file cat/copy.jpg."""
    return {f"{name.replace('_', '/', 1)}.jpg": content for name, content in files.items()}
