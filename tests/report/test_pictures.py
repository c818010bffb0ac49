"""Pictures as a page carries them: whole, in place, and about what they say."""

import base64
import io
import re
from pathlib import Path
from unittest.mock import MagicMock
from xml.etree import ElementTree

import numpy as np
import torch
from PIL import Image

from bt_ray.figures.comparison import (
    COLORS,
    color_of,
    draw_map,
    draw_measure,
    draw_spectra,
    heat_map,
    style_of,
)
from bt_ray.figures.inline import styled, to_jpeg, to_png, to_svg
from bt_ray.report.look import Look
from bt_ray.report.pictures import Detail, draw_look, draw_sheet


def opened(address: str) -> Image.Image:
    kind, _, text = address.partition(";base64,")
    image = Image.open(io.BytesIO(base64.b64decode(text)))
    assert kind == f"data:image/{str(image.format).lower()}"
    return image


def test_a_heat_map_is_blue_white_and_red_on_one_scale() -> None:
    matrix = np.array([[-1, 0, 9], [0, 1, 9], [9, 9, 9]], np.float32)
    levels, palette = heat_map(matrix, 2)
    assert levels.tolist() == [[0, 128], [128, 255]]
    pixels = np.asarray(opened(to_png(levels, palette)).convert("RGB"))
    assert pixels[0, 0].tolist() == [5, 48, 97]
    assert pixels[1, 1].tolist() == [103, 0, 31]
    assert pixels[0, 1].min() > 240


def test_photographs_are_jpeg() -> None:
    pixels = np.full((72, 72, 3), 90, np.uint8)
    assert np.abs(np.asarray(opened(to_jpeg(pixels))).astype(int) - 90).max() < 4


def test_two_figures_of_a_page_have_no_part_in_common() -> None:
    with styled():
        svgs = [
            to_svg(draw_measure([{0: 1.0, 9: 2.0}], title="T", with_marks=True), name=name,
                   words='a "b" & <c>')
            for name in ("one", "two")
        ]  # fmt: skip
    names = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in svgs]
    assert names[0]
    assert not names[0] & names[1]
    for svg, ids in zip(svgs, names, strict=True):
        root = ElementTree.fromstring(svg)
        assert root.get("aria-label") == 'a "b" & <c>'
        assert root.get("width") is None
        assert root.get("viewBox") is not None
        assert set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', svg)) <= {
            pair for i in ids for pair in ((i, ""), ("", i))
        }
        assert ">T<" in svg  # letters, not outlines


def test_each_run_has_a_line_of_its_own() -> None:
    """A run that lacks the measure leaves the others' colours as they are."""
    figure = draw_measure([{0: 1.0, 5: 2.0}, {}, {0: 3.0}], title="T", with_marks=False)
    lines = figure.axes[0].lines
    assert [line.get_color() for line in lines] == [color_of(0), color_of(2)]
    assert lines[1].get_marker() == "o"  # a single point would not be seen
    percent = draw_measure([{0: 0.5}], title="T", with_marks=True, is_percentage=True)
    assert list(percent.axes[0].lines[0].get_ydata()) == [50]  # type: ignore[arg-type]
    wide = draw_measure([{0: 1.0, 5: 99.0}], title="T", with_marks=False)
    assert wide.axes[0].get_yscale() == "log"
    kinds = {(color_of(run), style_of(run)) for run in range(4 * len(COLORS))}
    assert len(kinds) == 4 * len(COLORS)


def test_spectra_of_start_and_end() -> None:
    spectra = {0: np.array([1, 0], np.float32), 5: np.array([0.6, 0.4], np.float32)}
    lines = draw_spectra([spectra, {}, {5: spectra[5]}]).axes[0].lines
    assert [len(line.get_xdata()) for line in lines] == [1, 2, 2]  # type: ignore[arg-type]
    assert [line.get_color() for line in lines] == [color_of(0), color_of(0), color_of(2)]


def test_a_map_names_few_classes_and_colours_many() -> None:
    places = np.random.default_rng(0).normal(size=(30, 2)).astype(np.float32)
    labels = np.arange(30) % 3
    few = draw_map(places, labels, ["cat", "dog", "emu"], title="T")
    assert [text.get_text() for text in few.legends[0].get_texts()] == ["cat", "dog", "emu"]
    many = draw_map(places, np.arange(30), [str(i) for i in range(30)], title="T")
    assert not many.legends
    colors = {tuple(c.get_facecolor()[0]) for c in many.axes[0].collections}  # type: ignore[index]
    assert len(colors) == 30
    assert len(draw_map(places, np.full(30, -1), [], title="T").axes[0].collections) == 1


def test_neighbors_are_held_against_a_class_only_where_it_has_others() -> None:
    features = torch.nn.functional.one_hot(torch.arange(6) // 2).float()
    features += 0.01 * torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    pixels = np.zeros((6, 8, 8, 3), np.uint8)
    detail = Detail(64, 6, 6)

    def shown(labels: list[int]) -> tuple[str | None, list[bool | None]]:
        look = Look(pixels, features, np.array(labels), ("a", "b", "c", "d", "e", "f"), "six")
        pictures = draw_look(look, 0, detail)
        assert [len(row) for row in pictures.rows] == [6] * 6
        return pictures.agreement, [row[1].is_same_class for row in pictures.rows]

    assert shown([0, 0, 1, 1, 2, 2]) == ("6 of 30 are of the query's class", [True] * 6)
    assert shown([0, 1, 2, 3, 4, 5]) == (None, [None] * 6)
    assert shown([-1] * 6) == (None, [None] * 6)
    agreement, nearest = shown([0, 0, 1, 2, 3, 4])
    assert agreement == "2 of 10 are of the query's class"
    assert sorted(map(str, nearest)) == ["None"] * 4 + ["True"] * 2


def test_a_run_s_sheet_of_views_is_shrunk_to_the_page(tmp_path: Path) -> None:
    """Whole, in its shape; a run that has none has no picture."""
    run = MagicMock(folder=tmp_path)
    assert draw_sheet(run, Detail(64, 6, 6)) is None
    assert draw_sheet(MagicMock(folder=None), Detail(64, 6, 6)) is None
    (tmp_path / "figures").mkdir()
    Image.new("RGB", (1000, 1200), (90, 20, 20)).save(tmp_path / "figures" / "views.png")
    shown = opened(draw_sheet(run, Detail(64, 6, 6, sheet_px=500)) or "")
    assert shown.size == (500, 600)
    assert np.abs(np.asarray(shown)[..., 0].astype(int) - 90).max() < 6
