"""Labels from a text file, for a source without labels."""

import hashlib
import re
from dataclasses import replace
from pathlib import PurePosixPath

import pyarrow as pa

from bt_ray.data.location import locate, public_name
from bt_ray.data.sources.source import Source, name_classes
from bt_ray.errors import DataError


def with_labels(source: Source, file: str) -> Source:
    """The source, with labels from a text file.

    Each line holds an image's name (with or without folders and suffix) and, after a space or
    comma, its label. Or each line holds a label alone, for the images sorted by name. Labels are
    whole numbers from 0, or words, such as synsets, which name the classes.

    Raises: DataError if the source has labels already, the file cannot be read, or it has no label
      for some image.
    """
    if source.classes:
        raise DataError(f"{source.name} has labels of its own; leave out --labels {file}.")
    content = _content(file)
    names = source.entries["sample_id"].to_pylist()
    word_of = _words(content, names, public_name(file))
    classes, labels = name_classes([word_of[name] for name in names])
    position = source.entries.schema.get_field_index("label")
    column = pa.array(labels, pa.int32())
    digest = hashlib.sha256(content.encode()).hexdigest()[:6]
    return replace(
        source,
        identity=f"{source.identity}-{digest}",
        classes=classes,
        entries=source.entries.set_column(position, "label", column),
    )


def _words(content: str, names: list[str], shown: str) -> dict[str, str]:
    """The label of each image."""
    lines = [re.split(r"[\s,]+", line.strip()) for line in content.splitlines() if line.strip()]
    if lines and all(len(line) == 1 for line in lines):
        if len(lines) != len(names):
            raise DataError(
                f"{shown!r} holds {len(lines):,} labels for {len(names):,} images; give one a "
                "line, in the order of the images' names."
            )
        return dict(zip(sorted(names), (line[0] for line in lines), strict=True))
    told = {PurePosixPath(line[0]).stem: line[1] for line in lines if len(line) > 1}
    bare = [name for name in names if PurePosixPath(name).stem not in told]
    if bare:
        raise DataError(
            f"{shown!r} has no line for {len(bare):,} of {len(names):,} images, such as "
            f"{bare[0]!r}; give a line `NAME LABEL` for each."
        )
    return {name: told[PurePosixPath(name).stem] for name in names}


def _content(file: str) -> str:
    filesystem, path = locate(file)
    try:
        with filesystem.open_input_stream(path) as stream:
            return str(stream.read().decode())
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"The labels {public_name(file)!r} cannot be read ({error}).") from error
