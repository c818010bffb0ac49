"""What a comparison says of its rows is what their scores bear out."""

from dataclasses import replace
from math import sqrt

import pytest
from scipy.stats import t

from bt_ray.comparison.contrast import contrast
from bt_ray.comparison.notes import notes
from bt_ray.comparison.outcome import Outcome
from bt_ray.comparison.show import to_record
from bt_ray.comparison.tables import CLAIMS_NOTHING, differences_table, scores_table, tables
from tests.comparison.made import outcome, result


def test_p_is_that_of_a_paired_t_test() -> None:
    """By hand: t = mean / (s / √n) of the differences, n − 1 degrees of freedom, two sides."""
    first = {0: 0.5, 1: 0.7, 2: 0.6, 3: 0.4, 9: 0.1}
    other = {0: 0.56, 1: 0.74, 2: 0.65, 3: 0.49}
    found = contrast(other, first)
    assert found is not None
    differences = [0.06, 0.04, 0.05, 0.09]
    mean = sum(differences) / 4
    spread = sqrt(sum((d - mean) ** 2 for d in differences) / 3)
    assert found.pairs == 4
    assert found.difference == pytest.approx(mean)
    assert found.spread == pytest.approx(spread)
    assert found.p == pytest.approx(2 * t.sf(mean / (spread / 2), 3))
    assert not found.is_weak


@pytest.mark.parametrize(
    ("other", "first", "pairs"),
    [
        ({0: 0.6}, {0: 0.5}, 1),
        ({0: 0.6, 1: 0.8}, {0: 0.5, 1: 0.7}, 2),  # the same difference twice, but for rounding
        ({0: 0.5, 1: 0.7, 2: 0.9}, {0: 0.5, 1: 0.7, 2: 0.9}, 3),
    ],
)
def test_without_variance_there_is_no_p(
    other: dict[int, float], first: dict[int, float], pairs: int
) -> None:
    found = contrast(other, first)
    assert found is not None
    assert (found.p, found.pairs) == (None, pairs)


def test_seeds_that_only_one_has_are_not_compared() -> None:
    assert contrast({1: 0.5}, {0: 0.5}) is None
    assert contrast({}, {0: 0.5}) is None


def test_who_is_near_the_untrained_encoder_claims_nothing() -> None:
    """Five points: 64 % is four above 60, 66 % six above."""
    found = outcome({"barlow_twins": [0.65, 0.67], "simclr": [0.63, 0.65]})
    first, second, untrained = scores_table(found).rows
    assert first[0] == "Barlow Twins"
    assert (first[-1], second[-1], untrained[-1]) == ("", CLAIMS_NOTHING, "")
    assert second[2] == "64.0 ± 1.4"
    assert untrained[2] == "60.0 ± 0.0"
    assert [row["claims_nothing"] for row in to_record(found)["methods"]] == [False, True]
    unknown = outcome({"barlow_twins": [0.65, 0.67], "simclr": [0.63, 0.65]}, untrained=None)
    assert [row[-1] for row in scores_table(unknown).rows] == ["", ""]


def test_two_seeds_are_called_weak_and_four_are_not() -> None:
    two = outcome({"barlow_twins": [0.6, 0.7], "simclr": [0.7, 0.71]})
    ((name, difference, p, *_),) = differences_table(two).rows
    assert (name, difference) == ("SimCLR", "+5.5 ± 6.4")
    assert p.endswith("(weak)")
    assert any(
        "With 2 seeds it is weak: 1 degree of freedom says next to nothing" in note
        for note in notes(two)
    )
    four = outcome({"barlow_twins": [0.6, 0.7, 0.6, 0.7], "simclr": [0.7, 0.71, 0.7, 0.7]}, seeds=4)
    assert "weak" not in differences_table(four).rows[0][2]
    assert not any("weak" in note for note in notes(four))


def test_the_budget_is_told_and_a_rate_at_the_edge_is_named() -> None:
    found = outcome({"barlow_twins": [0.9, 0.9], "simclr": [0.9, 0.9]})
    first, second, _ = scores_table(found).rows
    assert (first[1], second[1]) == ("0.2", "0.4 (edge)")
    told = " ".join(notes(found))
    assert "3 runs, with 0.5, 1, 2 times its preset's rate" in told
    assert "`edge`: the best rate of SimCLR is" in told


def test_published_scores_stand_beside_ours() -> None:
    *_, costs, published = tables(outcome({"barlow_twins": [0.9, 0.9], "simsiam": [0.9, 0.9]}))
    assert published.head[:3] == ("method", "ours: linear top-1", "Table 1: top-1")
    assert published.rows[0][:4] == ("Barlow Twins", "91.0 ± 0.0", "73.2", "91.0")
    assert published.rows[1][:4] == ("SimSiam", "91.0 ± 0.0", "71.3", "–")
    assert costs.rows[0] == ("Barlow Twins", "0.511 ± 0.001", "500 ± 1", "700 ± 0", "1.5 ± 0.0")


def test_failed_and_missing_runs_are_told() -> None:
    found = outcome({"barlow_twins": [0.9, 0.9], "simclr": [0.9, 0.9]})
    first, second, untrained = found.rows
    failed = replace(second, results=(result(0, failure="The loss is nan."),))
    rows = (replace(first, searched=(), results=(), chosen={}), failed, untrained)
    found = replace(found, rows=rows)
    assert [row[-1] for row in scores_table(found).rows] == ["not searched yet", "failed", ""]
    assert found.num_missing == 3 + 2 + 1
    told = notes(found)
    assert "SimCLR, rate 0.1, seed 0: The loss is nan." in told
    assert "6 runs are still to be made; the same command goes on with them." in told
    assert [row["state"] for row in to_record(found)["methods"]] == ["not searched yet", "failed"]
    tables(found)


def test_before_the_first_run_nothing_is_said_of_labels() -> None:
    found = outcome({"barlow_twins": [0.9, 0.9], "simclr": [0.9, 0.9]})
    waiting = replace(found, rows=tuple(replace(row, results=()) for row in found.rows))
    assert not any("RankMe, which ranks" in note for note in notes(waiting))
    assert any("RankMe, which ranks" in note for note in notes(_unlabelled(found)))


def _unlabelled(found: Outcome) -> Outcome:
    """The same, with scores that need no labels alone."""
    rows = tuple(
        replace(row, results=tuple(replace(r, scores={"rankme": 9.0}) for r in row.results))
        for row in found.rows
    )
    return replace(found, rows=rows)
