"""Names: of the images as a settings file has them, of held-out ones beside them, of the run."""

import re
from pathlib import Path

from bt_ray.data.sources.names import expand_braces
from bt_ray.data.sources.splits import split_of
from bt_ray.storage.names import absolute, is_far

_COMMON = {"data", "images", "imgs", "jpegimages", "train", "training"}
"""Names of folders that say nothing of what is in them."""


def find_test(train: str) -> str | None:
    """The one folder of held-out images beside the folder `train`, such as `test`; none if unclear.

    Of a folder `seg_train` that is `seg_test`, and never `mini_test`.
    """
    if "://" in train:
        return None
    folder = Path(train).expanduser().resolve()
    split = split_of(folder.name)
    if split is None or split[0] != "train" or not folder.is_dir():
        return None
    found = [
        other
        for other in sorted(folder.parent.iterdir())
        if other.is_dir() and split_of(other.name) == ("test", split[1])
    ]
    named_test = [other for other in found if "test" in other.name.lower()]
    for held_out in (found, named_test):
        if len(held_out) == 1:
            return str(held_out[0])
    return None


def name_anywhere(name: str) -> str:
    """A path from the root on, which means the same from any folder; other names stay."""
    is_path = Path(expand_braces(name)[0]).expanduser().exists()
    return absolute(name) if is_path else name


def name_run(train: str, storage: str) -> str:
    """A name after the images, which no run in the storage has yet."""
    parts = [part for part in re.split(r"[/\\:?]+", train.rstrip("/")) if part]
    while len(parts) > 1 and parts[-1].lower() in _COMMON:
        parts.pop()
    stem = re.sub(r"[^\w.-]+", "-", parts[-1]).strip("-.") or "suggested"
    name, number = stem, 1
    while not is_far(storage) and (Path(absolute(storage)) / name).exists():
        number += 1
        name = f"{stem}-{number}"
    return name
