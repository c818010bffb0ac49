"""Small images, and archives of them, as tests need them."""

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image


def encoded(number: int, *, size: tuple[int, int] = (12, 9), kind: str = "JPEG") -> bytes:
    """An image that no other number has."""
    levels = np.random.default_rng(number).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(levels).save(buffer, format=kind)
    return buffer.getvalue()


def tar_bytes(members: Mapping[str, bytes]) -> bytes:
    """A tar archive of these files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def write_tar(path: Path, members: Mapping[str, bytes]) -> str:
    """Writes the archive; its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar_bytes(members))
    return str(path)


def imagenet_train(path: Path, *, classes: int = 3, each: int = 10) -> dict[str, bytes]:
    """Writes a tar of one tar a class; its images by their names there."""
    images = {
        f"n{c:08d}.tar": {f"n{c:08d}_{i}.JPEG": encoded(100 * c + i) for i in range(each)}
        for c in range(classes)
    }
    write_tar(path, {name: tar_bytes(members) for name, members in images.items()})
    return {f"{tar}/{name}": content for tar, members in images.items()
            for name, content in members.items()}  # fmt: skip


def write_folder(folder: Path, images: Mapping[str, bytes]) -> str:
    """Writes each image into a file; the folder's path."""
    for name, content in images.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return str(folder)
