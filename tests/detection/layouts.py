"""Small detection data sets, as others lay them out."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Box = tuple[int, int, int, int]
"""Left, top, right and bottom edge, in pixels."""
COLOUR = (250, 20, 30)
BACKGROUND = (10, 120, 200)


def painted(width: int, height: int, box: Box, kind: str = "PNG") -> bytes:
    """An image of one colour with a rectangle of another."""
    levels = np.full((height, width, 3), BACKGROUND, np.uint8)
    left, top, right, bottom = box
    levels[top:bottom, left:right] = COLOUR
    buffer = io.BytesIO()
    Image.fromarray(levels).save(buffer, format=kind)
    return buffer.getvalue()


def write_voc_folder(
    folder: Path,
    images: Mapping[str, tuple[tuple[int, int], Sequence[tuple[str, Box]]]],
    split: str = "train",
) -> Path:
    """Images of these sizes (width, height), in the layout of a year of VOC's.

    Boxes are given as edges, and written as VOC writes them; the first is painted.
    """
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(images) + "\n")
    for name, ((width, height), objects) in images.items():
        box = objects[0][1] if objects else (0, 0, 0, 0)
        (folder / "JPEGImages" / f"{name}.png").write_bytes(painted(width, height, box))
        (folder / "Annotations" / f"{name}.xml").write_text(voc_xml(width, height, objects))
    return folder


def voc_xml(width: int, height: int, objects: Sequence[tuple[str, Box]]) -> str:
    """The text of an annotation."""
    inner = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{box[0] + 1}</xmin><ymin>{box[1] + 1}</ymin>"
        f"<xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"
        for name, box in objects
    )
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation>{size}{inner}</annotation>"


def coco_tree() -> dict[str, Any]:
    """Two images with three objects and a crowd, and one without; ids of categories have gaps."""
    square = {"image_id": 7, "category_id": 90, "bbox": [4, 2, 8, 6], "iscrowd": 0}
    return {
        "info": {"year": 2017},
        "images": [
            {"id": 7, "file_name": "a.png", "width": 20, "height": 12},
            {"id": 3, "file_name": "sub/b.png", "width": 10, "height": 16},
            {"id": 5, "file_name": "c.png", "width": 8, "height": 8},
        ],
        "annotations": [
            {**square, "id": 1, "segmentation": [[4, 2, 12, 2, 12, 8, 4, 8]]},
            {
                **square, "id": 2, "image_id": 3, "category_id": 2, "bbox": [1, 3, 5, 4],
                "segmentation": {"size": [16, 10], "counts": [16 + 3, 4, 160 - 16 - 3 - 4]},
            },
            {
                **square, "id": 3, "category_id": 2, "bbox": [0.5, 0, 3, 2.25], "iscrowd": 1,
                "segmentation": {"size": [12, 20], "counts": [0, 2, 10, 2, 226]},
            },
        ],
        "categories": [{"id": 90, "name": "zebra"}, {"id": 2, "name": "car"}],
    }  # fmt: skip


def write_coco(folder: Path, tree: Mapping[str, Any]) -> tuple[Path, Path]:
    """The file of instances, and the folder of its images."""
    for entry in coco_tree()["images"]:
        file = folder / "images" / entry["file_name"]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(painted(entry["width"], entry["height"], (4, 2, 7, 8)))
    (folder / "instances.json").write_text(json.dumps(tree))
    return folder / "instances.json", folder / "images"
