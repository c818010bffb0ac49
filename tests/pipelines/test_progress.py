import pytest

from bt_ray.config import Settings
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
