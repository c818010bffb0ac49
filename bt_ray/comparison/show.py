"""What a comparison came to, for people and programs: Markdown, a picture, JSON, a page of HTML."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from matplotlib.figure import Figure

from bt_ray.ablations.ablate import Row
from bt_ray.comparison.notes import notes
from bt_ray.comparison.outcome import Outcome, names_of
from bt_ray.comparison.study import method_of
from bt_ray.comparison.tables import COMPARED, SCORES, Table, costs_of, tables
from bt_ray.figures.inline import styled, to_svg
from bt_ray.figures.methods import MethodMarks, draw_methods
from bt_ray.json_files import write_json

_CURVE = "knn_top1"


def write_comparison(outcome: Outcome, folder: Path) -> dict[str, Path]:
    """The files of a comparison, by kind: md, json, html and, as soon as a run has ended, png."""
    folder.mkdir(parents=True, exist_ok=True)
    kinds = ("md", "json", "html", *(("png",) if _has_picture(outcome) else ()))
    files = {kind: folder / f"{outcome.study.name}.{kind}" for kind in kinds}
    write_json(files["json"], to_record(outcome))
    if "png" in files:
        with styled():
            _draw(outcome).savefig(files["png"], dpi=120)
    files["md"].write_text(to_markdown(outcome))
    files["html"].write_text(to_page(outcome))
    return files


def to_markdown(outcome: Outcome) -> str:
    """Title, tables, picture, notes."""
    study = outcome.study
    parts = [f"# {study.title}", *(_markdown(table) for table in tables(outcome))]
    if _has_picture(outcome):
        parts.append(f"![{study.title}]({study.name}.png)")
    parts.append("\n".join(f"- {note}" for note in notes(outcome)))
    return "\n\n".join(parts) + "\n"


def to_page(outcome: Outcome) -> str:
    """One page of HTML that needs no other file and no network."""
    environment = Environment(
        loader=PackageLoader("bt_ray.comparison", "."),
        autoescape=select_autoescape(["html", "jinja"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    title = outcome.study.title
    picture = ""
    if _has_picture(outcome):
        with styled():
            picture = to_svg(
                _draw(outcome), name="methods", words="Scores and curves of the methods"
            )
    return environment.get_template("page.html.jinja").render(
        title=title,
        subtitle=f"{outcome.settings.name}: {', '.join(r.case.label for r in outcome.methods)}",
        tables=tables(outcome),
        picture=picture,
        notes=notes(outcome),
        settings=[
            (row.case.label, sorted({**row.case.changes, **row.chosen}.items()))
            for row in outcome.methods
        ],
    )


def to_record(outcome: Outcome) -> dict[str, Any]:
    """All that is known, for programs."""
    return {
        "name": outcome.study.name,
        "preset": outcome.settings.name,
        "plan": asdict(outcome.plan),
        "multiples": list(outcome.multiples),
        "num_missing": outcome.num_missing,
        "notes": notes(outcome),
        "untrained": None if outcome.untrained is None else _scores(outcome.untrained),
        "methods": [_row(outcome, row) for row in outcome.methods],
    }


def _row(outcome: Outcome, row: Row) -> dict[str, Any]:
    contrasts = {name: outcome.contrast(row, name) for name in COMPARED}
    return {
        "method": method_of(row.case),
        "label": row.case.label,
        "changes": row.case.changes,
        "chosen": row.chosen,
        "is_at_edge": outcome.is_at_edge(row),
        "state": outcome.state(row) or "done",
        "scores": _scores(row),
        "contrasts": {name: asdict(found) for name, found in contrasts.items() if found},
        "lead_over_untrained": outcome.lead(row),
        "claims_nothing": outcome.claims_nothing(row),
        "costs": {name: _summary(values) for name, values in costs_of(row).items() if values},
        "published": asdict(outcome.published_of(row)),
        "results": [asdict(result) for result in row.results],
        "searched": [
            {
                "changes": candidate,
                "key": found.key,
                "scores": found.scores,
                "failure": found.failure,
            }
            for candidate, found in zip(row.case.candidates, row.searched, strict=False)
        ],
    }


def _scores(row: Row) -> dict[str, Any]:
    return {name: _summary(row.scores(name)) for name in SCORES if row.scores(name)}


def _summary(values: list[float]) -> dict[str, Any]:
    return {
        "mean": mean(values),
        "deviation": stdev(values) if len(values) > 1 else None,
        "all": values,
    }


def _markdown(table: Table) -> str:
    lines = [table.head, ("---", *["---:"] * (len(table.head) - 1)), *table.rows]
    body = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return f"## {table.title}\n\n{body}"


def _has_picture(outcome: Outcome) -> bool:
    """Whether there is anything to draw: a run that has ended well."""
    return any(result.scores for row in outcome.methods for result in row.results)


def _draw(outcome: Outcome) -> Figure:
    names = names_of(outcome.methods, COMPARED)
    untrained = outcome.untrained
    lines: Mapping[str, float] = (
        {}
        if untrained is None
        else {SCORES[n]: mean(untrained.scores(n)) for n in names if untrained.scores(n)}
    )
    return draw_methods(
        [
            MethodMarks(
                label=row.case.label,
                scores={SCORES[name]: row.scores(name) for name in names},
                curves=[r.curves[_CURVE] for r in row.results if r.curves.get(_CURVE)],
            )
            for row in outcome.methods
        ],
        kinds=[SCORES[name] for name in names],
        untrained=lines,
        curve_of="kNN top-1 of the probes",
    )
