"""Published scores of detectors on ResNet-50 pretrained on ImageNet, to stand beside one's own.

All are of the C4 backbone, fine-tuned as a whole; COCO's by the 1× schedule. Names are those of the
measures that they can be compared with. The paper evaluates VOC as He et al. 2019 do, whose
program (detectron2) takes VOC2007's rule of 11 points on test2007, and its mean over the
thresholds of IoU for AP.

Source: Zbontar et al. 2021, Table 4.
"""

from collections.abc import Mapping, Sequence

from bt_ray.evaluation.published import Published

TITLES = {
    "ap": "AP",
    "ap50": "AP50",
    "ap75": "AP75",
    "voc_ap50": "AP50, VOC 2010",
    "voc07_ap": "AP, VOC 2007",
    "voc07_ap50": "AP50, VOC 2007",
    "voc07_ap75": "AP75, VOC 2007",
    "mask_ap": "AP of masks",
    "mask_ap50": "AP50 of masks",
    "mask_ap75": "AP75 of masks",
}
"""Measure → what it is called in tables and figures."""
_BOXES, _MASKS = ("ap", "ap50", "ap75"), ("mask_ap", "mask_ap50", "mask_ap75")
_VOC = tuple(f"voc07_{name}" for name in _BOXES)
_PER_CENT: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "supervised": ((53.5, 81.3, 58.8), (38.2, 58.2, 41.2, 33.3, 54.7, 35.2)),
    "MoCo v2": ((57.4, 82.5, 64.0), (39.3, 58.9, 42.5, 34.4, 55.8, 36.5)),
    "SwAV": ((56.1, 82.6, 62.7), (38.4, 58.6, 41.3, 33.8, 55.2, 35.9)),
    "SimSiam": ((57.0, 82.4, 63.7), (39.2, 59.3, 42.1, 34.4, 56.0, 36.7)),
    "Barlow Twins": ((56.8, 82.6, 63.4), (39.2, 59.0, 42.5, 34.3, 56.0, 36.5)),
}
"""Method → VOC07+12: AP, AP50, AP75 of boxes; COCO: the same of boxes, then of masks."""


def _published(method: str, names: tuple[str, ...], per_cent: tuple[float, ...]) -> Published:
    scores = {name: round(v / 100, 3) for name, v in zip(names, per_cent, strict=True)}
    return Published(f"paper, Table 4: {method}", scores)


VOC = tuple(_published(method, _VOC, voc) for method, (voc, _) in _PER_CENT.items())
"""Faster R-CNN, trained on trainval07+12, scored on test2007."""
COCO = tuple(_published(method, _BOXES + _MASKS, coco) for method, (_, coco) in _PER_CENT.items())
"""Mask R-CNN on COCO."""


def titled(rows: Sequence[Published], data: str) -> tuple[Published, ...]:
    """The rows as tables show them: with titles of measures, and the data set in the source.

    Args:
      data: name of the data set.
    """
    return tuple(
        Published(
            row.source.replace("Table 4:", f"Table 4, {data}:"),
            {TITLES[name]: value for name, value in row.scores.items()},
        )
        for row in rows
    )
