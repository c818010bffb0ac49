"""One page of HTML about one or several runs; it needs no other file and no network."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from jinja2 import Environment, PackageLoader, StrictUndefined, Template, select_autoescape

from bt_ray.config.methods import TITLES
from bt_ray.errors import BtRayError, SettingsError
from bt_ray.figures.comparison import color_of
from bt_ray.model.pretrained import load_folder
from bt_ray.report.look import Look, look_at
from bt_ray.report.pictures import (
    Detail,
    HeatMap,
    LookPictures,
    draw_charts,
    draw_heat_maps,
    draw_look,
    draw_sheet,
)
from bt_ray.report.record import RunRecord
from bt_ray.report.tables import main_rows, score_tables, setting_rows

MOST_BYTES = 2 * 10**6
_DETAILS = (
    Detail(256, 600, 6),
    Detail(128, 400, 4, sheet_px=900),
    Detail(64, 200, 2, sheet_px=600),
    Detail(48, 100, 1, sheet_px=300),
)
_FACTS: tuple[tuple[str, Callable[[RunRecord], float | None], str], ...] = (
    ("loss", lambda run: run.last("train/loss"), "{:,.4g}"),
    ("kNN, before pretraining", lambda run: run.first("knn/top1"), "{:.1%}"),
    ("kNN", lambda run: run.last("knn/top1"), "{:.1%}"),
    ("RankMe, before pretraining", lambda run: run.first("probe/rankme"), "{:.1f}"),
    ("RankMe", lambda run: run.last("probe/rankme"), "{:.1f}"),
    ("alignment", lambda run: run.last("probe/alignment"), "{:.3f}"),
    ("uniformity", lambda run: run.last("probe/uniformity"), "{:.2f}"),
    ("images/s", lambda run: run.last("time/images_per_s"), "{:,.0f}"),
)
_FACTS_OF_SOME: tuple[tuple[str, Callable[[RunRecord], float | None], str], ...] = (
    ("best score, of validation images", lambda run: run.last("best/score"), "{:.4g}"),
    ("best score, after steps", lambda run: run.last("best/step"), "{:,.0f}"),
    ("kNN, averaged weights", lambda run: run.last("knn_average/top1"), "{:.1%}"),
)
"""Shown where a run has them."""


@dataclass(frozen=True)
class Page:
    """A page of HTML; `missing` says by run's name, in sentences, what it cannot show."""

    html: str
    missing: dict[str, list[str]]


@dataclass(frozen=True)
class RunView:
    """What the page shows of one run."""

    record: RunRecord
    color: str
    sheet: str | None
    heat_maps: list[HeatMap]
    look: LookPictures | None
    missing: list[str] = field(default_factory=list)


def build_page(runs: Sequence[RunRecord]) -> Page:
    """The page of these runs, of at most 2 MB: with many runs, the pictures have less detail.

    Raises: SettingsError if there are too many runs for 2 MB.
    """
    looks = [_look(run) for run in runs]
    charts = draw_charts(runs)
    for detail in _DETAILS:
        page = _render(runs, looks, charts, detail)
        if len(page.html.encode()) <= MOST_BYTES:
            return page
    raise SettingsError(f"A page of 2 MB cannot show {len(runs)} runs; name fewer.")


def _look(run: RunRecord) -> Look | str:
    """The run's images, encoded; or why there are none, in a sentence; "" without checkpoint."""
    if run.checkpoint is None:
        return ""
    try:
        return look_at(load_folder(run.checkpoint), _DETAILS[0].map_images)
    except (BtRayError, OSError) as error:
        return f"Map and neighbours: {error}"


def _render(
    runs: Sequence[RunRecord], looks: Sequence[Look | str], charts: Sequence[str], detail: Detail
) -> Page:
    views = []
    for number, (run, look) in enumerate(zip(runs, looks, strict=True)):
        fault = look if isinstance(look, str) else ""
        views.append(
            RunView(
                record=run,
                color=color_of(number),
                sheet=draw_sheet(run, detail),
                heat_maps=draw_heat_maps(run, detail),
                look=draw_look(look, number, detail) if isinstance(look, Look) else None,
                missing=run.missing + ([fault] if fault else []),
            )
        )
    rows = setting_rows(runs)
    some = [fact for fact in _FACTS_OF_SOME if any(fact[1](run) is not None for run in runs)]
    named = dict.fromkeys(run.method for run in runs)
    html = _template().render(
        methods=" and ".join(TITLES[name] for name in named),
        views=views,
        facts=[
            (words, [_shown(value(run), form) for run in runs])
            for words, value, form in (*_FACTS, *some)
        ],
        charts=charts,
        main_settings=main_rows(rows, len(runs)),
        all_settings=rows,
        score_tables=score_tables(runs),
        heat_px=detail.heat_px,
    )
    return Page(html, {view.record.name: view.missing for view in views if view.missing})


def _shown(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)


def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("bt_ray.report", "."),
        autoescape=select_autoescape(["html", "jinja"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.jinja")
