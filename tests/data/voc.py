"""A small data set in the layout of Pascal VOC 2007."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.data.pictures import encoded

Object = tuple[str, tuple[int, int, int, int], bool]
"""Class, box (left, top, right, bottom), difficult or not."""


def write_voc(root: Path, splits: Mapping[str, Mapping[str, Sequence[Object]]]) -> Path:
    """Writes images of 12×9 pixels with these objects; the folder of VOC2007."""
    folder = root / "VOCdevkit" / "VOC2007"
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    number = 0
    for split, images in splits.items():
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(images) + "\n")
        for name, objects in images.items():
            number += 1
            (folder / "JPEGImages" / f"{name}.jpg").write_bytes(encoded(number))
            (folder / "Annotations" / f"{name}.xml").write_text(annotation(objects))
    return folder


def annotation(objects: Sequence[Object]) -> str:
    """The text of an image's annotation."""
    inner = "".join(
        f"<object><name>{name}</name><difficult>{int(difficult)}</difficult><bndbox>"
        f"<xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax>"
        "</bndbox></object>"
        for name, box, difficult in objects
    )
    size = "<size><width>12</width><height>9</height><depth>3</depth></size>"
    return f"<annotation>{size}{inner}</annotation>"
