"""Figures are written, show their data, and adapt to what there is."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from bt_ray.figures.correlation import draw_correlation
from bt_ray.figures.curves import draw_curves
from bt_ray.figures.eigenvalues import draw_eigenvalues

STEPS = range(0, 50, 10)
TRAINING = {
    name: {step: 100.0 - step for step in STEPS}
    for name in ("train/loss", "train/on_diagonal", "train/off_diagonal")
}
PROBES = {
    "probe/rankme": dict.fromkeys(STEPS, 30.0),
    "probe/alignment": dict.fromkeys(STEPS, 0.2),
    "probe/uniformity": dict.fromkeys(STEPS, -2.0),
}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Every figure that is saved."""
    figures: list[Figure] = []
    save = Figure.savefig

    def kept(figure: Figure, *arguments: object, **options: object) -> None:
        figures.append(figure)
        save(figure, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Figure, "savefig", kept)
    return figures


def pixels(file: Path) -> NDArray[np.uint8]:
    return np.asarray(Image.open(file).convert("RGB"))


def share_of(color: tuple[int, int, int], file: Path) -> float:
    """Share of the picture's pixels that have nearly this colour."""
    near = np.abs(pixels(file).astype(int) - color).max(-1) < 40
    return float(near.mean())


RED, GREEN, GREY = (103, 0, 31), (44, 160, 44), (127, 127, 127)


def test_the_heat_maps_show_c_on_one_scale(tmp_path: Path, drawn: list[Figure]) -> None:
    noise = np.random.default_rng(0).uniform(-0.05, 0.05, (40, 40)).astype(np.float32)
    files = [tmp_path / "noise.png", tmp_path / "identity.png"]
    for file, end in zip(files, (noise, np.kron(np.eye(4), np.ones((10, 10)))), strict=True):
        draw_correlation({0: noise, 90: end}, num_dimensions=40, title="a run", file=file)
    colour_bar_alone, identity = (share_of(RED, file) for file in files)
    assert identity > colour_bar_alone + 0.02
    start, end = drawn[-1].axes[:2]
    assert [panel.get_title() for panel in (start, end)] == ["after 0 steps", "after 90 steps"]
    assert start.images[0].get_clim() == end.images[0].get_clim() == (-1, 1)
    assert drawn[-1].get_suptitle() == "a run · cross-correlation of two views"


def test_a_part_of_c_says_so(tmp_path: Path, drawn: list[Figure]) -> None:
    matrix = np.eye(256, dtype=np.float32)
    draw_correlation({0: matrix}, num_dimensions=8192, title="a run", file=tmp_path / "c.png")
    assert drawn[0].get_suptitle().endswith("first 256 of 8192 dimensions")
    assert pixels(tmp_path / "c.png").std() > 10


def test_the_spectra_of_start_and_end_are_seen(tmp_path: Path, drawn: list[Figure]) -> None:
    """Eigenvalues that are zero, or no more than rounding, have no place on a log scale."""
    flat = np.full(64, 1 / 64, np.float32)
    steep = np.array([0.9, 0.1, 1e-12, 0], np.float32)
    file = tmp_path / "eigenvalues.png"
    draw_eigenvalues({0: steep, 9: flat}, rank_me={0: 1.4, 5: 8, 9: 64}, title="a run", file=file)
    axes = drawn[0].axes[0]
    assert axes.get_yscale() == "log"
    assert [len(line.get_xdata()) for line in axes.lines] == [2, 64]  # type: ignore[arg-type]
    texts = [text.get_text() for text in axes.get_legend().get_texts()]  # type: ignore[union-attr]
    assert texts == ["after 0 steps: RankMe 1.4", "after 9 steps: RankMe 64.0"]
    assert share_of(GREEN, file) > 1e-3
    assert share_of(GREY, file) > 1e-3


def test_curves_show_knn_with_labels_and_the_rest_without(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    knn = {"knn/top1": dict.fromkeys(STEPS, 0.5)}
    for name, history in (("with", TRAINING | PROBES | knn), ("without", TRAINING | PROBES)):
        file = tmp_path / f"{name}.png"
        draw_curves(history, redundancy_weight=0.005, title="a run", file=file)
        assert share_of(GREEN, file) > 1e-3
    labels = [[axes.get_ylabel() for axes in figure.get_axes()] for figure in drawn]
    assert labels == [
        ["", "top-1 on held-out images, %"],
        ["", "RankMe", "alignment", "uniformity"],
    ]
    loss = drawn[1].get_axes()[0].lines
    assert list(loss[0].get_ydata()) == [100, 90, 80, 70, 60]  # type: ignore[arg-type]
    assert loss[2].get_ydata()[0] == pytest.approx(0.5)  # type: ignore[index]


def test_a_loss_that_was_logged_once_is_a_point(tmp_path: Path, drawn: list[Figure]) -> None:
    for steps in ([10], STEPS):
        history = {"train/loss": {step: 100.0 - step for step in steps}} | PROBES
        draw_curves(history, redundancy_weight=0.005, title="a run", file=tmp_path / "c.png")
    assert [str(f.get_axes()[0].lines[0].get_marker()) for f in drawn] == ["o", ""]


def test_a_loss_without_terms_or_below_zero_is_drawn(tmp_path: Path, drawn: list[Figure]) -> None:
    """A scale of logarithms, where there are some."""
    for sign in (1, -1):
        history = {"train/loss": {step: sign * (100.0 - step) for step in STEPS}}
        draw_curves(
            history | PROBES, redundancy_weight=0.005, title="a run", file=tmp_path / "c.png"
        )
    scales = [(len(f.get_axes()[0].lines), f.get_axes()[0].get_yscale()) for f in drawn]
    assert scales == [(1, "log"), (1, "linear")]
