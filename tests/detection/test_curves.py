"""The figure of AP over the steps shows each encoder's mean and spread."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.collections import PolyCollection

from bt_ray.detection.curves import DetectionMarks, draw_detection

PRETRAINED = DetectionMarks(
    label="Barlow Twins",
    curves={
        "ap50": [
            [[100, 0.2 + above], [200, 0.5 + above], [300, 0.6 + above]] for above in (0, 0.1, 0.2)
        ],
        "ap": [[[100, 0.1], [200, 0.2], [300, 0.3]]],
    },
)
UNTRAINED = DetectionMarks(label="random", curves={"ap50": [[[100, 0.1]], [[100, 0.3]]]})


def test_lines_are_means_and_bands_reach_from_lowest_to_highest() -> None:
    ap50, ap = draw_detection([PRETRAINED, UNTRAINED]).axes
    assert (ap50.get_ylabel(), ap.get_ylabel()) == ("AP50, %", "AP, %")
    line, other = ap50.get_lines()
    assert line.get_xydata() == pytest.approx(np.array([[100, 30], [200, 60], [300, 70]]))
    assert other.get_xydata() == pytest.approx(np.array([[100, 20]]))
    assert line.get_color() != other.get_color()
    band = ap50.collections[0]
    assert isinstance(band, PolyCollection)
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == pytest.approx((20, 80))
    assert ap.get_lines()[0].get_xydata() == pytest.approx(
        np.array([[100, 10], [200, 20], [300, 30]])
    )
    assert not ap.collections, "one seed has no spread"


def test_every_encoder_is_named_once(tmp_path: Path) -> None:
    figure = draw_detection([UNTRAINED, PRETRAINED], measures=["ap", "mask_ap", "voc07_ap50"])
    assert len(figure.axes) == 3
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["random", "Barlow Twins"]
    figure.savefig(tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 0
