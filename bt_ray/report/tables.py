"""The tables of a report: settings and scores of several runs, side by side."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bt_ray.detection.published import COCO as DETECTION_COCO
from bt_ray.detection.published import TITLES, titled
from bt_ray.detection.published import VOC as DETECTION_VOC
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
    "detection-voc0712": titled(DETECTION_VOC, "VOC07+12"),
    "detection-voc-layout": titled(DETECTION_VOC, "VOC07+12"),
    "detection-coco": titled(DETECTION_COCO, "COCO"),
    "detection-coco-layout": titled(DETECTION_COCO, "COCO"),
}
_SHARE_OF_LABELS = re.compile(r"^(\d+)pct_")
_HEADINGS = {"map_11point": "mAP, 11-point", "map_allpoint": "mAP, all-point", **TITLES}
_PLACES = ("name", "storage", "tracking.experiment", "tracking.registered_model")
_MAIN = (
    "data.train",
    "data.global_batch",
    "views.image_px",
    "model.encoder",
    "model.projector_widths",
    "objective.method",
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
    """A setting's value in each run; None if a run has no such setting."""

    key: str
    values: tuple[str | None, ...]

    @property
    def differs(self) -> bool:
        """Whether the value is not the same in all runs."""
        return len(set(self.values)) > 1


def setting_rows(runs: Sequence[RunRecord]) -> list[SettingRow]:
    """Every setting of the runs, in the order in which the runs have them."""
    keys = dict.fromkeys(key for run in runs for key in run.flat)
    return [SettingRow(key, tuple(run.flat.get(key) for run in runs)) for key in keys]


def main_rows(rows: Sequence[SettingRow], num_runs: int) -> list[SettingRow]:
    """The rows to show first: of several runs those that differ, of one run the main settings."""
    if num_runs > 1:
        return [row for row in rows if row.differs and row.key not in _PLACES]
    return [row for row in rows if row.key in _MAIN]


@dataclass(frozen=True)
class ScoreRow:
    """Scores of one encoder; `run` is its run's place on the page, None for published scores."""

    title: str
    run: int | None
    values: tuple[str, ...]


@dataclass(frozen=True)
class ScoreTable:
    """The scores of one kind of evaluation, of the runs' encoders and published ones."""

    evaluation: str
    columns: tuple[str, ...]
    rows: tuple[ScoreRow, ...]


def score_tables(runs: Sequence[RunRecord]) -> list[ScoreTable]:
    """One table for each kind of evaluation that any of the runs has."""
    names = dict.fromkeys(str(e["evaluation"]) for run in runs for e in run.evaluations)
    return [_score_table(name, runs) for name in names]


def _score_table(evaluation: str, runs: Sequence[RunRecord]) -> ScoreTable:
    found: list[tuple[str, int, Mapping[str, float], Mapping[str, float]]] = []
    for number, run in enumerate(runs):
        for record in run.evaluations:
            if record["evaluation"] == evaluation:
                spreads = _variants(evaluation, record.get("deviations", {}))
                found += [
                    (
                        f"{run.name}{variant}{_conditions(record)}",
                        number,
                        scores,
                        spreads.get(variant, {}),
                    )
                    for variant, scores in _variants(evaluation, record["scores"]).items()
                ]
    columns = tuple(dict.fromkeys(name for _, _, scores, _ in found for name in scores))
    rows = [
        ScoreRow(title, run, _shown(scores, columns, spreads))
        for title, run, scores, spreads in found
    ]
    rows += [
        ScoreRow(published.source, None, _shown(published.scores, columns))
        for published in _PUBLISHED.get(evaluation, ())
    ]
    return ScoreTable(evaluation, columns, tuple(rows))


_OTHERS = {"untrained": "before pretraining"}
"""Words for encoders but the run's own, by how names of their scores end."""


def _variants(evaluation: str, scores: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Words for an encoder → its scores by heading; the words for the run's own encoder are "".

    A score whose name begins with another score's name belongs to another encoder:
    `knn_top1_untrained` is `knn_top1` of the one before pretraining.
    """
    variants: dict[str, dict[str, float]] = {}
    for name, value in scores.items():
        base = max((other for other in scores if name.startswith(f"{other}_")), key=len, default="")
        measure = _heading(evaluation, base or name)
        words = name.removeprefix(f"{base}_") if base else ""
        words = _OTHERS.get(words, words.replace("_", " "))
        variants.setdefault(f", {words}" if words else "", {})[measure] = value
    return variants


def _heading(evaluation: str, score: str) -> str:
    """The heading of a score, as in `published`: `1 % top1` for `semi_1pct_top1`."""
    measure = score.removeprefix(f"{evaluation.replace('-', '_')}_")
    return _SHARE_OF_LABELS.sub(r"\1 % ", _HEADINGS.get(measure, measure))


def _conditions(record: Mapping[str, Any]) -> str:
    """Options of an evaluation that change its meaning, in a few words."""
    order = record.get("order", {})
    if order.get("seeds", 1) > 1:
        return f" ({order['seeds']} seeds)"
    return f" (k = {order['neighbors']})" if "neighbors" in order else ""


def _shown(
    scores: Mapping[str, float],
    columns: Sequence[str],
    spreads: Mapping[str, float] | None = None,
) -> tuple[str, ...]:
    """Shares as per cent, with their deviations over seeds; empty where nothing was measured."""
    shown = []
    for name in columns:
        spread = f" ± {100 * spreads[name]:.1f}" if spreads and name in spreads else ""
        shown.append(f"{100 * scores[name]:.1f}{spread} %" if name in scores else "")
    return tuple(shown)
