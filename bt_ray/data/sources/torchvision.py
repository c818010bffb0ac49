"""Torchvision's data sets, read from a folder on this machine; nothing is downloaded.

If a data set has a file for each image, the shards get the file's bytes. If it returns pictures
(CIFAR-10, MNIST), they are encoded as PNG, which is lossless.
"""

import inspect
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from bt_ray.data.location import first_line
from bt_ray.data.sources.source import Source, identify, index
from bt_ray.errors import DataError

_SPLIT_ARGUMENTS = ("split", "image_set", "train")
_FILE_LISTS = ("samples", "imgs", "_samples", "images", "_images", "_image_files")
_LABEL_LISTS = ("targets", "labels", "_labels", "y")


@dataclass(frozen=True)
class _Pictures:
    """Reads a data set: a row's file `path` or, if it is null, picture `number` as PNG."""

    kind: str
    root: str
    arguments: tuple[tuple[str, Any], ...]

    def read(self, entries: pa.Table) -> Iterator[bytes]:
        for number, path in zip(
            entries["number"].to_pylist(), entries["path"].to_pylist(), strict=True
        ):
            if path is not None:
                yield Path(path).read_bytes()
            else:
                picture = _open(self.kind, self.root, self.arguments)[number][0]
                yield _png(picture, f"{self.kind} {number}")


def torchvision_set(name: str) -> Source:
    """The data set that `torchvision:CLASS:ROOT[:SPLIT][:ARGUMENT=VALUE …]` names.

    SPLIT is the value of the class's argument `train` (train or test), `split` or `image_set`;
    other arguments are passed on. Labels are the class's if they are whole numbers; otherwise, as
    with VOC's annotations, there are none.

    Raises: DataError if torchvision has no such class, or ROOT holds no data set of it.
    """
    kind, root, arguments = _parse(name)
    dataset = _open(kind, root, arguments)
    paths = _paths(dataset)
    num_images = len(dataset)
    if not num_images:
        raise DataError(f"{name!r} holds no image; give a root and a split that do.")
    labels = _labels(dataset)
    if paths is None:
        ids = [f"{number:0{len(str(num_images - 1))}d}" for number in range(num_images)]
        files = [file for file in sorted(Path(root).expanduser().rglob("*")) if file.is_file()]
        num_bytes = num_images * len(_png(dataset[0][0], name))
    else:
        ids, files = _relative(paths, root), [Path(path) for path in paths]
        num_bytes = sum(file.stat().st_size for file in files)
    return Source(
        identity=identify(f"torchvision-{kind}", (name, *map(_fact, files))),
        classes=_classes(dataset, labels),
        entries=index(
            ids,
            [None] * num_images if labels is None else list(labels),
            number=pa.array(range(num_images), pa.int64()),
            path=pa.array([None] * num_images if paths is None else paths, pa.string()),
        ),
        reader=_Pictures(kind, root, arguments),
        num_bytes=num_bytes + sum(map(len, ids)),
        name=name,
    )


def _fact(file: Path) -> str:
    status = file.stat()
    return f"{file} {status.st_size} {status.st_mtime_ns}"


def _classes(dataset: Any, labels: list[int] | None) -> tuple[str, ...]:
    """The names of the classes, or their numbers if the data set names too few."""
    if labels is None:
        return ()
    names = [
        name[0] if isinstance(name, tuple) else str(name)
        for name in getattr(dataset, "classes", ())
    ]
    if max(labels) < len(names) and len(set(names)) == len(names):
        return tuple(names)
    return tuple(str(label) for label in range(max(labels) + 1))


def _parse(name: str) -> tuple[str, str, tuple[tuple[str, Any], ...]]:
    parts = name.split(":")
    if len(parts) < 3 or not all(parts[1:3]):
        raise DataError(
            f"{name!r} must be torchvision:CLASS:ROOT[:SPLIT], such as "
            "torchvision:CIFAR10:/data/cifar10:train."
        )
    kind, root, *rest = parts[1:]
    accepted = inspect.signature(_class(kind)).parameters
    arguments: dict[str, Any] = {}
    for part in rest:
        key, equals, value = part.partition("=")
        if not equals:
            key, value = next((k for k in _SPLIT_ARGUMENTS if k in accepted), ""), part
        if key not in accepted:
            raise DataError(
                f"torchvision's {kind} takes no {key or 'split'!r} ({part}); it takes "
                f"{', '.join(accepted)}."
            )
        arguments[key] = _value(key, value)
    if "train" in accepted:
        arguments.setdefault("train", True)
    if "download" in accepted:
        arguments["download"] = False
    return kind, root, tuple(sorted(arguments.items()))


def _value(key: str, text: str) -> object:
    if key == "train":
        if text not in ("train", "test", "val"):
            raise DataError(f"The split {text!r} must be train or test.")
        return text == "train"
    return {"True": True, "False": False}.get(text, text)


def _class(kind: str) -> Any:
    from torchvision import datasets  # here: it takes as long to import as torch

    if kind not in datasets.__all__:
        raise DataError(
            f"torchvision has no data set {kind!r}; it has {', '.join(sorted(datasets.__all__))}."
        )
    return getattr(datasets, kind)


@lru_cache(maxsize=1)  # a process reads many parts of one data set
def _open(kind: str, root: str, arguments: tuple[tuple[str, Any], ...]) -> Any:
    folder = str(Path(root).expanduser())
    try:
        return _class(kind)(folder, **dict(arguments))
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        raise DataError(
            f"torchvision's {kind} finds no data set in {root!r} ({first_line(error)}); nothing is "
            "downloaded: give the folder that it was downloaded into."
        ) from error


def _paths(dataset: Any) -> list[str] | None:
    """The files of the images, in the order of their numbers; none if they have none."""
    for name in _FILE_LISTS:
        files = getattr(dataset, name, None)
        if not isinstance(files, Sequence) or len(files) != len(dataset) or not len(files):
            continue
        firsts = [entry[0] if isinstance(entry, (tuple, list)) else entry for entry in files]
        if all(isinstance(first, (str, Path)) and Path(first).is_file() for first in firsts):
            return [str(first) for first in firsts]
    return None


def _labels(dataset: Any) -> list[int] | None:
    """The images' labels, in the order of their numbers; none if they are no whole numbers."""
    for name in (*_LABEL_LISTS, *_FILE_LISTS):
        entries = getattr(dataset, name, None)
        if entries is None or isinstance(entries, str) or len(entries) != len(dataset):
            continue
        labels = [entry[1] if isinstance(entry, (tuple, list)) and len(entry) == 2 else entry
                  for entry in entries]  # fmt: skip
        try:
            numbers = [int(label) for label in labels]
        except (TypeError, ValueError):
            continue
        if min(numbers) >= 0:
            return numbers
    return None


def _relative(paths: list[str], root: str) -> list[str]:
    """The paths below the root, as far as they lie there."""
    folder = Path(root).expanduser()
    return [
        Path(path).relative_to(folder).as_posix() if Path(path).is_relative_to(folder) else path
        for path in paths
    ]


def _png(picture: Any, name: str) -> bytes:
    if not isinstance(picture, Image.Image):
        raise DataError(f"{name} is a {type(picture).__name__} and no picture.")
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()
