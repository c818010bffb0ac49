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
from bt_ray.data.sources.headers import Member, list_members
from bt_ray.data.sources.ranges import Ranges
from bt_ray.data.sources.source import IMAGE_SUFFIXES, Source, identify, index, name_classes
from bt_ray.errors import DataError

_ARCHIVES_AT_ONCE = 16


def tar_archives(name: str, uris: list[str]) -> Source:
    """The images in the archives `uris`, all of one file system, as one source.

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
        found = list(pool.map(partial(list_members, filesystem), paths))
    members = [member for archive in found for member in archive]
    if not members:
        raise DataError(
            f"There is no image in {public_name(name)!r}; known are {', '.join(IMAGE_SUFFIXES)}."
        )
    classes, labels = _labels(name, members)
    prefixes = _prefixes(paths)
    ids = [
        f"{prefix}{member.name}"
        for prefix, archive in zip(prefixes, found, strict=True)
        for member in archive
    ]
    numbers = [number for number, archive in enumerate(found) for _ in archive]
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
    )


def _prefixes(paths: list[str]) -> list[str]:
    """What precedes a member's name in its id: the archive's name if there are several."""
    if len(paths) == 1:
        return [""]
    return [f"{path.rpartition('/')[2]}/" for path in paths]


def _labels(name: str, members: list[Member]) -> tuple[tuple[str, ...], list[int | None]]:
    """Classes, and each member's label, from its `word`; if none has one, from its folder."""
    words = [member.word for member in members if member.word is not None]
    if not words:
        words = _folders([member.name for member in members])
    if not words:
        return (), [None] * len(members)
    if len(words) < len(members):
        bare = next(member.name for member in members if member.word is None)
        raise DataError(
            f"Of the images in {public_name(name)!r} some have a class and others, such as "
            f"{bare!r}, have none; give archives of one kind."
        )
    classes, labels = name_classes(words)
    return classes, list(labels)


def _folders(names: list[str]) -> list[str]:
    """Each name's first folder below the shared one; empty if some name has no such folder."""
    parts = [PurePosixPath(name).parts[:-1] for name in names]
    depth = 0
    while all(len(p) > depth for p in parts) and len({p[depth] for p in parts}) == 1:
        depth += 1
    if not all(len(p) > depth for p in parts):
        return []
    return [p[depth] for p in parts]
