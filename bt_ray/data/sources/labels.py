"""Labels from a text file, for a source without labels."""

import codecs
import hashlib
import logging
from dataclasses import replace

import pyarrow as pa

from bt_ray.data.location import locate, public_name
from bt_ray.data.sources.label_lines import NameIndex, is_one_word, read_line
from bt_ray.data.sources.source import Source, name_classes
from bt_ray.errors import DataError

logger = logging.getLogger(__name__)


def with_labels(source: Source, file: str) -> Source:
    """The source, with labels from a text file.

    Each line holds an image's name (with or without folders and suffix) and, after a tab,
    semicolon, comma or space, its label. Or each line holds a label alone, for the images sorted by
    name. Labels are whole numbers from 0, or words, such as synsets, which name the classes.

    Raises: DataError if the source has labels already, the file cannot be read, or it has no label
      for some image or two for one, or it cannot be told which image a line means.
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


def without_labels(source: Source) -> Source:
    """The source without its labels."""
    position = source.entries.schema.get_field_index("label")
    bare = pa.nulls(len(source), pa.int32())
    return replace(
        source,
        identity=f"{source.identity.removesuffix('-unlabelled')}-unlabelled",
        classes=(),
        entries=source.entries.set_column(position, "label", bare),
    )


def _words(content: str, names: list[str], shown: str) -> dict[str, str]:
    """The label of each image."""
    lines = [line.strip() for line in content.splitlines() if line.strip()]
    index = NameIndex(names, shown)
    told: dict[str, str] = {}
    strangers = 0
    for line in lines:
        name, word = read_line(line, index, shown)
        if name is None:
            strangers += 1
        elif told.setdefault(name, word) != word:
            raise DataError(
                f"{shown!r} gives {name!r} two labels, {told[name]!r} and {word!r}; leave one."
            )
    if not told and all(is_one_word(line) for line in lines):
        return _in_order(lines, names, shown)
    bare = [name for name in names if name not in told]
    if bare:
        raise DataError(
            f"{shown!r} has no line for {len(bare):,} of {len(names):,} images, such as "
            f"{bare[0]!r}; give a line `NAME LABEL` for each."
        )
    if strangers > 1:  # one may be the columns' names
        logger.warning("%s lines of %s name no image here.", f"{strangers:,}", shown)
    return told


def _in_order(words: list[str], names: list[str], shown: str) -> dict[str, str]:
    """The labels of the images in the order of their names."""
    if len(words) != len(names):
        raise DataError(
            f"{shown!r} holds {len(words):,} labels for {len(names):,} images; give one a "
            "line, in the order of the images' names."
        )
    return dict(zip(sorted(names), words, strict=True))


def _content(file: str) -> str:
    filesystem, path = locate(file)
    try:
        with filesystem.open_input_stream(path) as stream:
            content: bytes = stream.read()
        is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        return content.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"The labels {public_name(file)!r} are not UTF-8 ({error}); save them as UTF-8."
        ) from error
    except OSError as error:
        raise DataError(f"The labels {public_name(file)!r} cannot be read ({error}).") from error
