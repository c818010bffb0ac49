import pytest

from bt_ray.config import Settings, override
from bt_ray.errors import SettingsError
from bt_ray.tuning.budget import check_budget, forecast_sweep
from bt_ray.tuning.order import SweepOrder
from bt_ray.tuning.progress import Board, SweepProgress
from bt_ray.tuning.records import TrialRecord
from bt_ray.tuning.space import SearchSpace, load_space
from pipelines.sweep_table import build_table, describe, human


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"trials": 0}, "trials=0 must be at least 1"),
        ({"seeds": 0}, "seeds=0 must be at least 1"),
        ({"max_hours": 0.0}, "max_hours=0.0 must be a finite number above 0"),
        ({"grace_epochs": 0}, "grace_epochs=0 must be at least 1"),
        ({"reduction": 1}, "reduction=1 must be at least 2"),
        ({"held_out": 1.0}, "held_out=1 must lie between 0 and 1"),
        ({"restarts": -1}, "must be 0 or above"),
    ],
)
def test_an_order_that_cannot_work_is_refused(changes: dict[str, int], sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        SweepOrder(**changes)  # type: ignore[arg-type]


@pytest.mark.run
def test_a_sweep_beyond_its_hours_is_refused(small_settings: Settings) -> None:
    space = load_space("projector")
    order = SweepOrder(trials=5, seeds=3)
    settings = override(small_settings, {"scaling.workers": 0})
    budget = forecast_sweep(space, settings, order)
    assert (budget.trials, budget.ended, budget.seeds, budget.epochs) == (5, 0, 2, 3)
    assert budget.measured == 3  # sizes, of the many that the space leads to
    assert budget.run_hours is not None
    assert budget.hours == pytest.approx(7 * budget.run_hours)
    check_budget(budget, order)
    check_budget(budget, SweepOrder(max_hours=2 * budget.hours))
    with pytest.raises(SettingsError, match=r"max_hours=.* allows less.*--trials"):
        check_budget(budget, SweepOrder(max_hours=budget.hours / 2))


@pytest.mark.run
def test_a_size_that_fits_nowhere_neither_ends_a_sweep_nor_counts(small_settings: Settings) -> None:
    space = SearchSpace(
        name="wide",
        propose=lambda trial: {
            "model.projector_widths": [64, trial.suggest_categorical("width", [32, 2**31])]
        },
        points=({"width": 2**31}, {"width": 32}),
    )
    settings = override(small_settings, {"scaling.workers": 0})
    budget = forecast_sweep(space, settings, SweepOrder(trials=2))  # nor has a disk room for it
    assert budget.measured == 1
    assert budget.hours is not None


def ended(number: int, score: float, seconds: float) -> TrialRecord:
    return TrialRecord(
        number=number, name=f"s-{number}", params={"rate": 0.1 * number}, changes={},
        state="finished", score=score, epochs=10, seconds=seconds,
    )  # fmt: skip


def board() -> Board:
    board = Board([ended(0, 0.5, 100), ended(1, 0.7, 140)], total=5, epochs=10, at_once=2)
    board.begin(2, {"rate": 0.2})
    board.hear(2, 5.0, 0.6)
    return board


def test_the_time_left_is_that_of_whole_trials_side_by_side() -> None:
    progress = board().look()
    # Two and a half trials of 120 s, two at a time.
    assert progress.left_s == pytest.approx(2.5 * 120 / 2)
    assert progress.best is not None
    assert progress.best.number == 1
    assert progress.num_ended == 2
    assert Board([], total=5, epochs=10, at_once=2).look().left_s is None


def shown(progress: SweepProgress) -> list[list[str]]:
    table = build_table("a sweep", progress)
    return [list(column.cells) for column in table.columns]  # type: ignore[arg-type]


def test_the_table_has_what_varies_and_the_best_first() -> None:
    columns = shown(board().look())
    assert columns[0] == ["2", "1", "0"]  # what runs, then by score
    assert columns[1] == ["0.2", "0.1", "0"]
    assert columns[4] == ["0.6000", "0.7000", "0.5000"]
    line = describe(board().look().rows[1], board().look())
    assert "finished, rate=0.1; 10 epochs in 2 min 20 s, score 0.7000" in line
    assert "2 of 5; best: trial 1" in line


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, "?"), (8.4, "8 s"), (75, "1 min 15 s"), (3700, "1 h 01 min"), (9e4, "1 d 1 h")],
)
def test_times_are_human(seconds: float | None, words: str) -> None:
    assert human(seconds) == words
