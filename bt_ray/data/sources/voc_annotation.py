"""Pascal VOC's annotation of one image, and where its folders lie."""

import re
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from bt_ray.errors import DataError

_SIDES = ("xmin", "ymin", "xmax", "ymax")
_FOLDER = re.compile(r"VOC\d{4}")


@dataclass(frozen=True)
class VocObject:
    """An object, as it is written."""

    name: str
    is_difficult: bool
    box: tuple[float, float, float, float]
    """Left, top, right and bottom pixel: counted from 1, the last two are part of the box."""


@dataclass(frozen=True)
class VocAnnotation:
    """The size of an image in pixels, and its objects."""

    width: int
    height: int
    objects: tuple[VocObject, ...]


def parent_of_devkit(root: Path) -> Path:
    """The folder that VOCdevkit lies in; `root` is that, VOCdevkit itself, or a year's in it."""
    root = root.expanduser().resolve()
    if _FOLDER.fullmatch(root.name):
        return root.parents[1]
    return root.parent if root.name == "VOCdevkit" else root


def read_annotation(file: Path) -> VocAnnotation:
    """What an annotation's file says. Raises: DataError if it is missing or damaged."""
    try:
        tree = ElementTree.parse(file).getroot()
        return VocAnnotation(
            width=int(_text(tree, "size/width")),
            height=int(_text(tree, "size/height")),
            objects=tuple(map(_read_object, tree.findall("object"))),
        )
    except FileNotFoundError as error:
        raise DataError(
            f"The annotation {file} is missing; unpack it, or take the image out of the list in "
            "ImageSets/Main."
        ) from error
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise DataError(
            f"The annotation {file} is damaged ({type(error).__name__}: {error}); unpack it again."
        ) from error


def _read_object(tree: ElementTree.Element) -> VocObject:
    left, top, right, bottom = (float(_text(tree, f"bndbox/{side}")) for side in _SIDES)
    return VocObject(
        name=_text(tree, "name"),
        is_difficult=tree.findtext("difficult", "0").strip() == "1",
        box=(left, top, right, bottom),
    )


def _text(tree: ElementTree.Element, path: str) -> str:
    """The text at this path. Raises: ValueError if there is none."""
    text = (tree.findtext(path) or "").strip()
    if not text:
        raise ValueError(f"<{path.replace('/', '><')}> is missing or empty")
    return text
