"""What a report puts side by side: settings and scores."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bt_ray.evaluation.published import (
    INATURALIST18,
    KNN,
    LINEAR,
    PLACES205,
    SEMI,
    VOC07,
    Published,
)
from bt_ray.report.record import RunRecord

_PUBLISHED: Mapping[str, tuple[Published, ...]] = {
    "knn": KNN,
    "linear": LINEAR,
    "linear-fast": LINEAR,
    "semi": SEMI,
    "places205": PLACES205,
    "inat18": INATURALIST18,
    "voc07": VOC07,
}
_SHARE_OF_LABELS = re.compile(r"^(\d+)pct_")
_HEADINGS = {"map_11point": "mAP, 11-point", "map_allpoint": "mAP, all-point"}
_PLACES = ("name", "storage", "tracking.experiment", "tracking.registered_model")
_MAIN = (
    "data.train",
    "data.global_batch",
    "views.image_px",
    "model.encoder",
    "model.projector_widths",
    "objective.variant",
    "objective.redundancy_weight",
    "optimizer.weight_rate",
    "schedule.epochs",
    "training.precision",
    "training.seed",
    "scaling.workers",
)


@dataclass(frozen=True)
class SettingRow:
    """A setting's values, one a run; none where a run has no such setting."""

    key: str
    values: tuple[str | None, ...]

    @property
    def differs(self) -> bool:
        """Whether the runs disagree."""
        return len(set(self.values)) > 1


def setting_rows(runs: Sequence[RunRecord]) -> list[SettingRow]:
    """Every setting of the runs, in the order of the first that has it."""
    keys = dict.fromkeys(key for run in runs for key in run.flat)
    return [SettingRow(key, tuple(run.flat.get(key) for run in runs)) for key in keys]


def main_rows(rows: Sequence[SettingRow], num_runs: int) -> list[SettingRow]:
    """Those to be seen first: of several runs what differs, of one what shapes it most."""
    if num_runs > 1:
        return [row for row in rows if row.differs and row.key not in _PLACES]
    return [row for row in rows if row.key in _MAIN]


@dataclass(frozen=True)
class ScoreRow:
    """Scores of one encoder; `run`: its place among the runs, none for published ones."""

    title: str
    run: int | None
    values: tuple[str, ...]


@dataclass(frozen=True)
class ScoreTable:
    """One kind of evaluation: what was measured, of the runs' encoders and of published ones."""

    evaluation: str
    columns: tuple[str, ...]
    rows: tuple[ScoreRow, ...]


def score_tables(runs: Sequence[RunRecord]) -> list[ScoreTable]:
    """One table for each evaluation that any of the runs has."""
    names = dict.fromkeys(str(e["evaluation"]) for run in runs for e in run.evaluations)
    return [_score_table(name, runs) for name in names]


def _score_table(evaluation: str, runs: Sequence[RunRecord]) -> ScoreTable:
    found: list[tuple[str, int, Mapping[str, float]]] = []
    for number, run in enumerate(runs):
        for record in run.evaluations:
            if record["evaluation"] == evaluation:
                found += [
                    (f"{run.name}{variant}{_conditions(record)}", number, scores)
                    for variant, scores in _variants(evaluation, record["scores"]).items()
                ]
    columns = tuple(dict.fromkeys(name for _, _, scores in found for name in scores))
    rows = [ScoreRow(title, run, _shown(scores, columns)) for title, run, scores in found]
    rows += [
        ScoreRow(published.source, None, _shown(published.scores, columns))
        for published in _PUBLISHED.get(evaluation, ())
    ]
    return ScoreTable(evaluation, columns, tuple(rows))


def _variants(evaluation: str, scores: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Measures by encoder: the run's (no words), and those that scores are compared with.

    A score whose name goes on after another's, as `knn_top1_untrained` does, is of another
    encoder.
    """
    variants: dict[str, dict[str, float]] = {}
    for name, value in scores.items():
        base = max((other for other in scores if name.startswith(f"{other}_")), key=len, default="")
        measure = _heading(evaluation, base or name)
        words = name.removeprefix(f"{base}_").replace("_", " ") if base else ""
        variants.setdefault(f", {words}" if words else "", {})[measure] = value
    return variants


def _heading(evaluation: str, score: str) -> str:
    """What stands above a score, as published ones are called: `1 % top1` of `semi_1pct_top1`."""
    measure = score.removeprefix(f"{evaluation.replace('-', '_')}_")
    return _SHARE_OF_LABELS.sub(r"\1 % ", _HEADINGS.get(measure, measure))


def _conditions(record: Mapping[str, Any]) -> str:
    """What an evaluation was told that changes its meaning, in a few words."""
    order = record.get("order", {})
    return f" (k = {order['neighbors']})" if "neighbors" in order else ""


def _shown(scores: Mapping[str, float], columns: Sequence[str]) -> tuple[str, ...]:
    """Shares as per cent; empty where nothing was measured."""
    return tuple(f"{100 * scores[name]:.1f} %" if name in scores else "" for name in columns)
