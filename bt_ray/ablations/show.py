"""What an ablation came to, for people and programs: Markdown, a picture, JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from matplotlib.figure import Figure

from bt_ray.ablations.ablate import Plan, Row
from bt_ray.ablations.study import Study
from bt_ray.config import Settings
from bt_ray.figures.ablation import Mark, draw_ablation

_NAMES = {
    "knn_top1": "kNN top-1",
    "linear_top1": "linear top-1",
    "linear_top5": "linear top-5",
    "rankme": "RankMe",
}
_UNTRAINED = "_untrained"
_WIDTHS, _BATCH = "model.projector_widths", "data.global_batch"
_DRAWN = ("knn_top1", "linear_top1")


def write_study(
    study: Study, settings: Settings, plan: Plan, rows: Sequence[Row], folder: Path
) -> dict[str, Path]:
    """The files of an ablation: its Markdown, picture and JSON, by kind."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {kind: folder / f"{study.name}.{kind}" for kind in ("md", "png", "json")}
    files["json"].write_text(json.dumps(_record(study, settings, plan, rows), indent=1) + "\n")
    _draw(study, rows).savefig(files["png"], dpi=120)
    files["md"].write_text(to_markdown(study, settings, plan, rows))
    return files


def to_markdown(study: Study, settings: Settings, plan: Plan, rows: Sequence[Row]) -> str:
    """Title, table, picture and notes; scores are mean ± standard deviation over seeds, in %."""
    names = [name for name in _NAMES if any(row.scores(name) for row in rows)]
    published = [n for n in ("top1", "top5") if any(n in row.case.published for row in rows)]
    searched = any(row.chosen for row in rows)
    head = [
        "", *(f"published {name[:3]}-{name[3:]}" for name in published),
        *(["chosen"] if searched else []), *(_NAMES[name] for name in names),
    ]  # fmt: skip
    lines = [_line(head), _line(["---", *["---:"] * (len(head) - 1)])]
    for row in rows:
        of_paper = [row.case.published.get(name) for name in published]
        lines.append(
            _line(
                [
                    row.case.label,
                    *("" if value is None else f"{100 * value:.1f}" for value in of_paper),
                    *([_chosen(row)] if searched else []),
                    *(_score(row, name) for name in names),
                ]
            )
        )
    untrained = [_untrained(rows, name) for name in names]
    if any(value is not None for value in untrained):
        blanks = [""] * (len(head) - 1 - len(names))
        shown = ("" if value is None else _number(value) for value in untrained)
        lines.append(_line(["*first weights, untrained*", *blanks, *shown]))
    table = "\n".join(lines)
    notes = "\n".join(f"- {note}" for note in (_conditions(settings, plan, rows), *study.notes))
    failures = "".join(
        f"- {row.case.label}, seed {result.seed}: {result.failure}\n"
        for row in rows
        for result in row.results
        if result.failure
    )
    return (
        f"# {study.title}\n\n{table}\n\n![{study.title}]({study.name}.png)\n\n{notes}\n{failures}"
    )


def _conditions(settings: Settings, plan: Plan, rows: Sequence[Row]) -> str:
    """What our scores are of, in a sentence."""
    images = {result.num_images for row in rows for result in row.results}
    many = " or ".join(f"{number:,}" for number in sorted(images))
    varied = {key for row in rows for key in row.case.changes}
    widths = "-".join(map(str, settings.model.projector_widths))
    projector = "" if _WIDTHS in varied else f", projector {widths}"
    batch = "" if _BATCH in varied else f", batch {settings.data.global_batch}"
    return (
        f"Ours: {settings.model.encoder}{projector}, {settings.schedule.epochs} epochs of "
        f"{many} images{batch}; {_over(plan.seeds)}, in per cent; kNN with k = "
        f"{settings.probe.neighbors or 'as the images of a class allow'}, linear "
        f"protocol `{plan.linear}`, on held-out test images."
    )


def _over(seeds: int) -> str:
    """What a score is of."""
    return "one seed" if seeds == 1 else f"mean ± standard deviation over {seeds} seeds"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _score(row: Row, name: str) -> str:
    scores = row.scores(name)
    if not scores:
        return "failed"
    scale = 1 if name == "rankme" else 100
    spread = f" ± {scale * stdev(scores):.1f}" if len(scores) > 1 else ""
    return f"{scale * mean(scores):.1f}{spread}"


def _untrained(rows: Sequence[Row], name: str) -> float | None:
    """Mean of this score before training, in the table's unit; none if it is not known."""
    scores = [score for row in rows for score in row.scores(f"{name}{_UNTRAINED}")]
    return mean(scores) * (1 if name == "rankme" else 100) if scores else None


def _number(value: float) -> str:
    return f"{value:.1f}"


def _chosen(row: Row) -> str:
    return ", ".join(f"{key.rpartition('.')[2]} {value:g}" for key, value in row.chosen.items())


def _draw(study: Study, rows: Sequence[Row]) -> Figure:
    names = [name for name in _DRAWN if any(row.scores(name) for row in rows)] or ["rankme"]
    untrained = {name: _untrained(rows, name) for name in names}
    return draw_ablation(
        {
            _NAMES[name]: [
                Mark(
                    label=row.case.name,
                    x=row.case.x,
                    line=row.case.line,
                    scores=[s / (100 if name == "rankme" else 1) for s in row.scores(name)],
                )
                for row in rows
            ]
            for name in names
        },
        title=study.title,
        axis=study.axis,
        untrained={
            _NAMES[name]: value / 100 for name, value in untrained.items() if value is not None
        },
    )


def _record(study: Study, settings: Settings, plan: Plan, rows: Sequence[Row]) -> dict[str, Any]:
    return {
        "name": study.name,
        "title": study.title,
        "preset": settings.name,
        "plan": asdict(plan),
        "notes": study.notes,
        "rows": [
            {
                "label": row.case.label,
                "changes": row.case.changes,
                "chosen": row.chosen,
                "published": row.case.published,
                "scores": {
                    name: {"mean": mean(scores), "all": scores}
                    for name in (*_NAMES, *(f"{n}{_UNTRAINED}" for n in _NAMES))
                    if (scores := row.scores(name))
                },
                "results": [result.key for result in row.results],
                "searched": [
                    {"changes": candidate, "key": result.key, "scores": result.scores}
                    for candidate, result in zip(row.case.candidates, row.searched, strict=True)
                ],
            }
            for row in rows
        ],
    }
