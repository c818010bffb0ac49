"""The pictures of a report, as text that is part of the page."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bt_ray.detection.curves import DetectionMarks, draw_detection, marks_of
from bt_ray.figures.comparison import draw_map, draw_measure, draw_spectra, heat_map
from bt_ray.figures.inline import styled, to_jpeg, to_png, to_svg
from bt_ray.report.look import Look, alike, place
from bt_ray.report.record import RunRecord
from bt_ray.training.sheet import SHEET
from bt_ray.training.summary import FIGURES

_THUMBNAIL_PX = 72
_NEIGHBORS = 6


@dataclass(frozen=True)
class Detail:
    """How much detail the pictures have, which decides the page's size."""

    heat_px: int
    map_images: int
    queries: int
    sheet_px: int = 1180


@dataclass(frozen=True)
class HeatMap:
    """A picture of the cross-correlation after `step` steps; `address` is a `data:` URI."""

    step: int
    address: str


@dataclass(frozen=True)
class Thumbnail:
    """A small image; its cosine similarity to the query and whether it is of the query's class.

    Both are None for the query itself; the latter also if it is not known.
    """

    address: str
    words: str
    similarity: float | None = None
    is_same_class: bool | None = None


@dataclass(frozen=True)
class LookPictures:
    """Map and neighbours of a run's images.

    `rows` have a query first, then its neighbours; `agreement` says how many of these are of the
    query's class, None without labels.
    """

    map: str
    method: str
    which: str
    rows: tuple[tuple[Thumbnail, ...], ...]
    agreement: str | None


_MEASURES = (
    ("train/loss", "Loss", False),
    ("train/on_diagonal", "Invariance: on-diagonal term", False),
    ("train/off_diagonal", "Redundancy: λ × off-diagonal term", False),
    ("train/spread", "Spread of the embeddings (0: collapsed, 1: even)", False),
    ("knn/top1", "kNN, top-1 on held-out images, %", True),
    ("probe/rankme", "RankMe: effective rank", True),
    ("probe/alignment", "Alignment of two views (0 is best)", True),
    ("probe/uniformity", "Uniformity (lower is better)", True),
)


def draw_charts(runs: Sequence[RunRecord]) -> list[str]:
    """SVGs: one chart for each measure that any run has, with all runs; and the spectra."""
    charts = []
    with styled():
        for number, (metric, title, is_probe) in enumerate(_MEASURES):
            curves = [dict(run.history.get(metric, {})) for run in runs]
            if metric == "train/off_diagonal":
                curves = [
                    {step: run.redundancy_weight * value for step, value in points.items()}
                    for run, points in zip(runs, curves, strict=True)
                ]
            if any(curves):
                figure = draw_measure(
                    curves,
                    title=title,
                    with_marks=is_probe,
                    is_percentage=metric == "knn/top1",
                )
                charts.append(to_svg(figure, name=f"m{number}", words=f"{title}, over the steps"))
        spectra = [
            {step: arrays["eigenvalues"] for step, arrays in run.snapshots.items()} for run in runs
        ]
        if any(spectra):
            words = "Eigenvalues of the representations' covariance, in order of size"
            charts.append(to_svg(draw_spectra(spectra), name="spectra", words=words))
        charts += _draw_detectors(runs)
    return charts


def _draw_detectors(runs: Sequence[RunRecord]) -> list[str]:
    """SVGs: one chart for each kind of detection that was evaluated, of all runs' encoders."""
    marks: dict[str, list[DetectionMarks]] = {}
    for run in runs:
        for record in run.evaluations:
            if "curves" in record:
                of_kind = marks.setdefault(str(record["evaluation"]), [])
                of_kind += marks_of(record["curves"], run.name)
    charts = []
    for kind, drawn in marks.items():
        figure = draw_detection(drawn, measures=("ap50",))
        figure.suptitle(kind, x=0.02, ha="left", fontweight="bold")
        charts.append(to_svg(figure, name=kind, words=f"{kind}: AP50 over the steps"))
    return charts


def draw_heat_maps(run: RunRecord, detail: Detail) -> list[HeatMap]:
    """The cross-correlation at the first and at the last probe of the run."""
    steps = list(run.snapshots)
    return [
        HeatMap(step, to_png(*heat_map(run.snapshots[step]["cross_correlation"], detail.heat_px)))
        for step in dict.fromkeys([*steps[:1], *steps[-1:]])
    ]


def draw_sheet(run: RunRecord, detail: Detail) -> str | None:
    """The sheet of the run's views as a `data:` URI; None where the run's folder has none."""
    file = None if run.folder is None else run.folder / FIGURES / SHEET
    if file is None or not file.is_file():
        return None
    with Image.open(file) as sheet:
        shown = sheet.convert("RGB")
    shown.thumbnail((detail.sheet_px, 2 * detail.sheet_px), Image.Resampling.LANCZOS)
    return to_jpeg(np.asarray(shown))


def draw_look(look: Look, number: int, detail: Detail) -> LookPictures:
    """Map and neighbours of a run; `number` is the run's place on the page."""
    shown = slice(0, detail.map_images)
    places, method = place(look.features[shown])
    with styled():
        figure = draw_map(
            places, look.labels[shown], look.classes, title=f"{method} of {len(places):,} images"
        )
        svg = to_svg(figure, name=f"map{number}", words=f"{method} map of the representations")
    likenesses = alike(look, detail.queries, _NEIGHBORS)
    comparable = _has_others(look.labels)
    rows, agreeing, total = [], 0, 0
    for likeness in likenesses:
        row = [Thumbnail(_thumbnail(look.pixels[likeness.query]), _words(look, likeness.query))]
        for image, similarity in zip(likeness.neighbors, likeness.similarities, strict=True):
            same = None
            if comparable[likeness.query]:
                same = bool(look.labels[image] == look.labels[likeness.query])
                agreeing, total = agreeing + same, total + 1
            row.append(
                Thumbnail(
                    _thumbnail(look.pixels[image]),
                    _words(look, image),
                    similarity,
                    same,
                )
            )
        rows.append(tuple(row))
    agreement = f"{agreeing} of {total} are of the query's class" if total else None
    return LookPictures(svg, method, look.which, tuple(rows), agreement)


def _has_others(labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each image has a class that another image has too."""
    classes, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    found: NDArray[np.bool_] = ((classes >= 0) & (counts > 1))[index]
    return found


def _words(look: Look, image: int) -> str:
    label = int(look.labels[image])
    return look.classes[label] if 0 <= label < len(look.classes) else f"image {image}"


def _thumbnail(pixels: NDArray[np.uint8]) -> str:
    """The image as a `data:` URI; large images are shrunk, small ones are enlarged by the page."""
    if len(pixels) <= _THUMBNAIL_PX:
        return to_jpeg(pixels) if len(pixels) > 32 else to_png(pixels)
    small = Image.fromarray(pixels).resize((_THUMBNAIL_PX, _THUMBNAIL_PX), Image.Resampling.LANCZOS)
    return to_jpeg(np.asarray(small))
