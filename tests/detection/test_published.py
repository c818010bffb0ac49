"""The paper's Table 4, as it is printed there."""

import re

import pytest

from bt_ray.detection.published import COCO, VOC
from tests.conftest import SHARED

PRINTED = {
    "supervised": "Sup.",
    "MoCo v2": "MoCo-v2",
    "SwAV": "SwAV",
    "SimSiam": "SimSiam",
    "Barlow Twins": "BT (ours)",
}


def test_every_number_is_the_papers() -> None:
    paper = SHARED.parent / "paper" / "barlow-twins.txt"
    if not paper.is_file():
        pytest.skip(f"needs the paper's text, {paper}")
    table = re.split(r"Table 4\. ", paper.read_text())[-1]
    rows = {line.split("\t")[0]: line.split("\t")[1:] for line in table.splitlines()[:10]}
    assert len(VOC) == len(COCO) == len(PRINTED)
    for voc, coco in zip(VOC, COCO, strict=True):
        assert voc.source == coco.source
        method = voc.source.removeprefix("paper, Table 4: ")
        ours = [100 * share for share in (*voc.scores.values(), *coco.scores.values())]
        assert ours == pytest.approx([float(cell) for cell in rows[PRINTED[method]]])


def test_names_are_those_of_the_measures_to_compare() -> None:
    """The columns of the paper in their order: AP, AP50, AP75 of boxes, then of masks."""
    for voc, coco in zip(VOC, COCO, strict=True):
        assert list(voc.scores) == ["voc07_ap", "voc07_ap50", "voc07_ap75"]
        assert list(coco.scores) == [
            "ap", "ap50", "ap75", "mask_ap", "mask_ap50", "mask_ap75",
        ]  # fmt: skip
        for scores, prefix in ((voc.scores, "voc07_"), (coco.scores, ""), (coco.scores, "mask_")):
            assert scores[f"{prefix}ap"] < scores[f"{prefix}ap75"] < scores[f"{prefix}ap50"] < 1
    assert VOC[-1].scores["voc07_ap50"] == 0.826
    assert COCO[-1].scores["mask_ap"] == 0.343
