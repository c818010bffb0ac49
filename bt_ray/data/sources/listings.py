"""Data sets that list their images in files, in the layout that their authors publish.

Places-205: `trainvalsplit_places205/{train,val}_places205.csv` with lines `PATH LABEL`, the images
below `data/vision/torralba/deeplearning/images256`. iNaturalist 2018: `train2018.json` and
`val2018.json`, which name images by their path beside them (`train_val2018/…`).
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath

from bt_ray.data.location import first_line, list_files, locate, public_name
from bt_ray.data.sources.folder import Files
from bt_ray.data.sources.source import Source, identify, index
from bt_ray.errors import DataError

_PLACES_LISTS, _PLACES_IMAGES = (
    "trainvalsplit_places205",
    "data/vision/torralba/deeplearning/images256",
)
_MOST_STATED = 3


@dataclass(frozen=True)
class _Listing:
    """The images of a split: their folder, and their paths in it, labels and classes."""

    folder: str
    paths: list[str]
    labels: list[int]
    classes: tuple[str, ...]


def is_listing(name: str) -> bool:
    """Whether `name` is `places205:SPLIT:ROOT` or `inat18:SPLIT:ROOT`."""
    kind, colon, _ = name.partition(":")
    return bool(colon) and kind in _LAYOUTS


def listed_images(name: str) -> Source:
    """The images that `places205:SPLIT:ROOT` or `inat18:SPLIT:ROOT` names; SPLIT is train or val.

    Raises: DataError if a list, or an image that it names, is missing.
    """
    kind, _, rest = name.partition(":")
    split, _, root = rest.partition(":")
    if split not in ("train", "val") or not root:
        raise DataError(f"{name!r} must be {kind}:train:ROOT or {kind}:val:ROOT.")
    listing = _LAYOUTS[kind](root, split)
    sizes = _sizes(listing.folder)
    missing = [path for path in listing.paths if path not in sizes]
    if missing:
        raise DataError(
            f"{len(missing):,} of the {len(listing.paths):,} images that {public_name(name)!r} "
            f"lists are not below {public_name(listing.folder)!r}, such as "
            f"{', '.join(missing[:_MOST_STATED])}; unpack all of its archives there."
        )
    facts = (f"{p} {n} {sizes[p]}" for p, n in zip(listing.paths, listing.labels, strict=True))
    return Source(
        identity=identify(f"{kind}-{split}", facts),
        classes=listing.classes,
        entries=index(listing.paths, list(listing.labels)),
        reader=Files(listing.folder),
        num_bytes=sum(sizes[path] + len(path) for path in listing.paths),
        name=public_name(name),
    )


def _places205(root: str, split: str) -> _Listing:
    file = f"{root.rstrip('/')}/{_PLACES_LISTS}/{split}_places205.csv"
    lines = [line.split() for line in _text(file).splitlines() if line.strip()]
    if bad := next((line for line in lines if len(line) != 2 or not line[1].isdigit()), None):
        raise DataError(f"{file!r} must hold lines `PATH LABEL`; {' '.join(bad)!r} is none.")
    paths, labels = [line[0] for line in lines], [int(line[1]) for line in lines]
    names = {
        label: str(PurePosixPath(path).parent) for path, label in zip(paths, labels, strict=True)
    }
    classes = tuple(names.get(label, str(label)) for label in range(max(names, default=-1) + 1))
    return _Listing(f"{root.rstrip('/')}/{_PLACES_IMAGES}", paths, labels, classes)


def _inat18(root: str, split: str) -> _Listing:
    root = root.rstrip("/")
    tree, of_train = (json.loads(_text(f"{root}/{part}2018.json")) for part in (split, "train"))
    try:
        ids = sorted(category["id"] for category in of_train["categories"])
        label_of = {category: label for label, category in enumerate(ids)}
        category_of = {note["image_id"]: note["category_id"] for note in tree["annotations"]}
        paths = [image["file_name"] for image in tree["images"]]
        labels = [label_of[category_of[image["id"]]] for image in tree["images"]]
    except KeyError as error:
        raise DataError(
            f"{root}/{split}2018.json lacks {error}: an image without annotation or category; "
            "fetch the file again."
        ) from error
    return _Listing(root, paths, labels, tuple(str(category) for category in ids))


_LAYOUTS: dict[str, Callable[[str, str], _Listing]] = {"places205": _places205, "inat18": _inat18}


def _text(file: str) -> str:
    filesystem, path = locate(file)
    try:
        with filesystem.open_input_stream(path) as stream:
            return str(stream.read().decode("utf-8-sig"))
    except FileNotFoundError as error:
        raise DataError(
            f"There is no {public_name(file)!r}; give the folder that the data set was unpacked in."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{public_name(file)!r} cannot be read ({first_line(error)}).") from error


def _sizes(folder: str) -> dict[str, int]:
    """Bytes of every file below the folder, by its path there."""
    filesystem, root = locate(folder)
    return {info.path.removeprefix(f"{root}/"): info.size for info in list_files(filesystem, root)}
