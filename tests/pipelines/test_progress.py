import pytest

from bt_ray.config import Settings, override
from pipelines.progress import ProgressLine


@pytest.mark.parametrize(
    ("measures", "shown", "hidden"),
    [
        ({"probe/rankme": 35.24}, "RankMe 35.2", "kNN"),
        ({"probe/rankme": 35.24, "knn/top1": 0.925}, "kNN 92.5%", "RankMe"),
    ],
)
def test_the_line_shows_knn_or_else_rank_me(
    small_settings: Settings,
    capsys: pytest.CaptureFixture[str],
    measures: dict[str, float],
    shown: str,
    hidden: str,
) -> None:
    with ProgressLine(small_settings) as progress:
        progress.log(0, measures)
    told = capsys.readouterr().err
    assert shown in told
    assert hidden not in told


def test_images_that_are_prepared_first_are_shown_and_then_epochs(
    small_settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    with ProgressLine(small_settings) as progress:
        progress.show_preparation("written", 0, 2000)
        progress.show_preparation("written", 2000, 2000)
        progress.log(0, {"probe/rankme": 35.24})
    zero, all_, epoch = capsys.readouterr().err.splitlines()
    assert zero == "0 of 2,000 images written"
    assert all_.startswith("2,000 of 2,000 images written · ")
    assert epoch.startswith("epoch 0.0 of 3")


def test_a_run_that_ends_within_its_schedule_is_shown_until_there(
    small_settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ten steps an epoch: the 15th is the last."""
    with ProgressLine(override(small_settings, {"schedule.steps": 15})) as progress:
        progress.log(5, {"train/epoch": 0.5, "probe/rankme": 35.24})
    assert capsys.readouterr().err.startswith("epoch 0.5 of 1.5")
