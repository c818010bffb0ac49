"""Settings and scores side by side, each score under the heading of the published ones."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bt_ray.config import Settings
from bt_ray.evaluation import published
from bt_ray.report.record import RunRecord, find_run
from bt_ray.report.tables import main_rows, score_tables, setting_rows
from tests.report.runs import begun_run


@pytest.fixture
def record(small_settings: Settings, tmp_path: Path) -> RunRecord:
    return find_run(str(begun_run(small_settings)), str(tmp_path))


def with_scores(record: RunRecord, evaluation: str, **scores: float) -> RunRecord:
    told: dict[str, Any] = {"evaluation": evaluation, "scores": scores}
    return replace(record, evaluations=(*record.evaluations, told))


def test_scores_stand_under_the_published_ones(record: RunRecord) -> None:
    """Those of Tables 1, 2 and 3, each by the names that its evaluation gives them."""
    cases = {
        "knn": ({"knn_top1": 0.5}, ["top1"], published.KNN),
        "linear": ({"linear_top1": 0.5, "linear_top5": 0.75}, ["top1", "top5"], published.LINEAR),
        "linear-fast": ({"linear_fast_top1": 0.5}, ["top1"], published.LINEAR),
        "semi": (
            {"semi_1pct_top1": 0.5, "semi_10pct_top5": 0.75}, ["1 % top1", "10 % top5"],
            published.SEMI,
        ),
        "inat18": ({"inat18_top1": 0.5}, ["top1"], published.INATURALIST18),
        "voc07": (
            {"voc07_map_11point": 0.5, "voc07_map_allpoint": 0.75},
            ["mAP, 11-point", "mAP, all-point"], published.VOC07,
        ),
    }  # fmt: skip
    for evaluation, (scores, columns, others) in cases.items():
        (table,) = score_tables([with_scores(record, evaluation, **scores)])
        assert (table.evaluation, list(table.columns)) == (evaluation, columns)
        assert list(table.rows[0].values) == ["50.0 %", "75.0 %"][: len(columns)]
        shown = {row.title: row.values for row in table.rows[1:]}
        assert shown == {
            other.source: tuple(f"{100 * other.scores[name]:.1f} %" for name in columns)
            for other in others
        }


def test_what_an_encoder_is_compared_with_has_rows_of_its_own(record: RunRecord) -> None:
    first = with_scores(record, "semi", semi_1pct_top1=0.9, semi_1pct_top1_untrained=0.7)
    second = replace(with_scores(record, "semi", semi_1pct_top1=0.8), name="other")
    (table,) = score_tables([first, record, second])
    ours = [(row.title, row.run, row.values) for row in table.rows if row.run is not None]
    assert ours == [
        ("small", 0, ("90.0 %",)),
        ("small, before pretraining", 0, ("70.0 %",)),
        ("other", 2, ("80.0 %",)),
    ]  # fmt: skip
    assert score_tables([record]) == []


def test_settings_that_differ_are_those_that_are_seen_first(record: RunRecord) -> None:
    changed = {"name": "other", "objective.redundancy_weight": "0.5", "views.image_px": "9"}
    other = replace(record, flat={**record.flat, **changed})
    rows = setting_rows([record, other])
    assert {row.key for row in rows} == record.flat.keys()
    assert [(row.key, row.values) for row in main_rows(rows, 2)] == [
        ("views.image_px", ("8", "9")), ("objective.redundancy_weight", ("0.005", "0.5"))
    ]  # fmt: skip
    alone = main_rows(setting_rows([record]), 1)
    assert {"data.global_batch", "model.encoder"} <= {row.key for row in alone}
