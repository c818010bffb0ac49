"""CIFAR-10 as folders of PNG files, downloaded once into the user's cache."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Literal

from bt_ray.errors import DataError


def cifar10_folder(split: Literal["train", "test"]) -> Path:
    """The folder of one split, with a subfolder for each class, below `$XDG_CACHE_HOME/bt_ray`.

    CIFAR-10 is downloaded if it is not there yet.

    Raises: DataError if it cannot be downloaded.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bt_ray"
    folder = cache / "cifar10" / split
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Written beside and renamed when whole: what was cut short is never taken for the data.
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=folder.parent) as unfinished:
        _store(split, cache / "downloads", Path(unfinished, split))
        if not folder.is_dir():
            shutil.move(Path(unfinished, split), folder)
    return folder


def _store(split: str, downloads: Path, destination: Path) -> None:
    from torchvision.datasets import CIFAR10  # here: it takes as long to import as torch

    try:
        images = CIFAR10(str(downloads), train=split == "train", download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"CIFAR-10 cannot be downloaded ({error}); give a folder of its images instead, "
            "such as --data.train DIR/train --data.test DIR/test."
        ) from error
    for name in images.classes:
        (destination / name).mkdir(parents=True)
    for i, (image, label) in enumerate(images):
        image.save(destination / images.classes[label] / f"{i:05d}.png")
