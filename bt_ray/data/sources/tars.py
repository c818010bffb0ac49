"""Tar archives: ImageNet's train and val, WebDataset's shards, any tar of images.

An archive's headers are read once, to learn where each image lies. A nested archive lies in the
outer one uncompressed, so its images have a place there too. From then on reading an image is one
read at a known place, in any order and by any number of readers; nothing is extracted.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import PurePosixPath

import pyarrow as pa

from bt_ray.data.location import locate, public_name
from bt_ray.data.sources.folder_labels import classes_of
from bt_ray.data.sources.found import Found
from bt_ray.data.sources.headers import Member, list_members
from bt_ray.data.sources.kinds import IMAGE_SUFFIXES
from bt_ray.data.sources.ranges import Ranges
from bt_ray.data.sources.source import Source, identify, index, name_classes
from bt_ray.errors import DataError

_ARCHIVES_AT_ONCE = 16


def tar_archives(name: str, uris: list[str], *, labelled: bool = True) -> Source:
    """The images in the archives `uris`, all of one file system, as one source.

    If they are to be labelled:

    An image's class is the nested archive that it lies in (`n01440764.tar`); without one, the text
    of the file of its name with the suffix `.cls` (WebDataset); without that, its folder, at the
    first level where folders differ. If there is none of these, no image has a label.

    Raises: DataError if an archive is missing, cut short, compressed or not a tar archive, if there
      is no image, or if only some of them have a label.
    """
    filesystem, _ = locate(uris[0])
    paths = [locate(uri)[1] for uri in uris]
    infos = filesystem.get_file_info(paths)
    for uri, info in zip(uris, infos, strict=True):
        if info.type != pa.fs.FileType.File:
            raise DataError(f"There is no archive {public_name(uri)!r}; give one that is there.")
    with ThreadPoolExecutor(_ARCHIVES_AT_ONCE) as pool:
        read = list(pool.map(partial(list_members, filesystem), paths))
    found = Found()
    for _, part in read:
        found.add(part)
    places = [(number, member) for number, (images, _) in enumerate(read) for member in images]
    if not places:
        seen = f" What is there: {found.sentence}" if found.passed_over else ""
        raise DataError(
            f"There is no image in {public_name(name)!r}; known are {', '.join(IMAGE_SUFFIXES)}."
            f"{seen}"
        )
    classes, labels, kept = _labels(name, [member for _, member in places], found, labelled)
    places = [places[i] for i in kept]
    numbers, members = [number for number, _ in places], [member for _, member in places]
    prefixes = _prefixes(paths)
    ids = [f"{prefixes[number]}{member.name}" for number, member in places]
    found.taken = len(ids)
    facts = (f"{i.path} {i.size} {i.mtime_ns}" for i in infos)
    stem = PurePosixPath(public_name(name)).stem or "tars"
    return Source(
        identity=identify(stem.replace("{", "").replace("}", ""), (public_name(name), *facts)),
        classes=classes,
        entries=index(
            ids,
            labels,
            archive=pa.array(numbers, pa.int32()),
            offset=pa.array([member.offset for member in members], pa.int64()),
            size=pa.array([member.size for member in members], pa.int64()),
        ),
        reader=Ranges(uris[0], tuple(paths)),
        num_bytes=sum(m.size for m in members) + sum(len(name.encode()) for name in ids),
        name=public_name(name),
        found=found,
    )


def _prefixes(paths: list[str]) -> list[str]:
    """What precedes a member's name in its id: the archive's name if there are several."""
    if len(paths) == 1:
        return [""]
    return [f"{path.rpartition('/')[2]}/" for path in paths]


def _labels(
    name: str, members: list[Member], found: Found, labelled: bool
) -> tuple[tuple[str, ...], list[int | None], list[int]]:
    """Classes, each kept member's label, and which are kept.

    The labels are the members' words; if none has one, their folders.
    """
    everyone = list(range(len(members)))
    if not labelled:
        return (), [None] * len(members), everyone
    words = [member.word for member in members if member.word is not None]
    if not words:
        below = _below_shared_folder([member.name for member in members])
        taken, classes = classes_of(name, below, found)
        places = {path: i for i, path in enumerate(below)}
        kept = [places[path] for path in taken] if len(taken) < len(below) else everyone
        label_of = {word: label for label, word in enumerate(classes)}
        return classes, [label_of.get(below[i].split("/")[0]) for i in kept], kept
    if len(words) < len(members):
        bare = next(member.name for member in members if member.word is None)
        raise DataError(
            f"Of the images in {public_name(name)!r} some have a class and others, such as "
            f"{bare!r}, have none; give archives of one kind."
        )
    classes, labels = name_classes(words)
    return classes, list(labels), everyone


def _below_shared_folder(names: list[str]) -> list[str]:
    """The names below the folders that all of them share."""
    parts = [name.split("/") for name in names]
    while len({p[0] for p in parts}) == 1 and all(len(p) > 1 for p in parts):
        parts = [p[1:] for p in parts]
    return ["/".join(p) for p in parts]
