"""A page shows what it promises, stands alone, and is never too large."""

import re
from html import unescape
from pathlib import Path

import pytest

from bt_ray.config import Settings
from bt_ray.errors import SettingsError
from bt_ray.report import page as page_module
from bt_ray.report.page import MOST_BYTES, build_page
from bt_ray.report.pictures import Detail
from bt_ray.report.record import RunRecord, find_run
from tests.report.runs import begun_run, evaluated, finished_run

pytestmark = pytest.mark.run

KNN = {"knn_top1": 0.8, "knn_top1_untrained": 0.6}


def text_of(html: str) -> str:
    """What a person reads, in one line."""
    body = re.sub(r"<style>.*?</style>", "", html, flags=re.DOTALL)
    return unescape(" ".join(re.sub(r"<[^>]+>", " ", body).split()))


@pytest.fixture(autouse=True)
def _small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    details = (Detail(64, 60, 6), Detail(32, 30, 2))
    monkeypatch.setattr(page_module, "_DETAILS", details)


@pytest.fixture
def two(small_settings: Settings, tmp_path: Path) -> list[RunRecord]:
    _, run = finished_run(small_settings)
    finished_run(small_settings, name="other", **{"objective.redundancy_weight": 0.5})
    evaluated(small_settings.storage, run, "knn", KNN, order={"neighbors": 20})
    return [find_run(name, str(tmp_path)) for name in ("small", "other")]


def test_two_runs_stand_side_by_side_on_a_page_that_asks_for_nothing_else(
    two: list[RunRecord],
) -> None:
    page = build_page(two)
    _stands_alone(page.html)
    text = text_of(page.html)
    different = "setting small other objective.redundancy_weight 0.005 0.5 All"
    assert f"Settings that differ {different}" in text
    assert "kNN, before pretraining 50.0% 50.0% kNN 75.0% 75.0%" in text
    assert "small (k = 20) 80.0 % small, before pretraining (k = 20) 60.0 %" in text
    assert "mmselfsup, ResNet-50, ImageNet, 300 epochs, k = 20 63.8 %" in text
    assert page.html.count("<svg") == 8 + 2  # seven measures, the spectra; a map each
    assert page.html.count("Cross-correlation of") == 1 + 2 * 2
    assert page.html.count('<div class="query">') == 2 * 6
    assert text.count("of 36 are of the query's class") == 2
    assert str(two[0].commit) in text
    assert "models:/barlow-small/3" in text
    assert f"--model {two[1].folder}" in text
    assert page.missing == {"other": two[1].missing}


def _stands_alone(html: str) -> None:
    """No address but those of its own pictures, and no program."""
    sources = re.findall(r'(?:src|href)="([^"#]*)', html)
    assert len(sources) > 90
    assert all(source.startswith("data:") or not source for source in sources)
    assert not re.search(r"<script|<iframe|@import|url\((?!#)", html)
    assert len(html.encode()) < MOST_BYTES
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', html)) <= set(ids)


def test_unfinished_runs_and_runs_without_labels_have_a_page(
    small_settings: Settings, tmp_path: Path
) -> None:
    """Alone and together; an image's class is then not held against its neighbours."""
    begun = find_run(str(begun_run(small_settings, name="begun")), str(tmp_path))
    finished_run(small_settings, with_labels=False)
    unlabelled = find_run("small", str(tmp_path))
    for runs in ([begun], [begun, unlabelled]):
        page = build_page(runs)
        text = text_of(page.html)
        assert "top-1" not in text
        assert set(page.missing) == {run.name for run in runs}
        for run in runs:
            assert run.missing[0] in text
    assert "Curves" not in text_of(build_page([begun]).html).partition("What is missing")[0]


def test_images_that_are_gone_are_said_to_be(small_settings: Settings, tmp_path: Path) -> None:
    finished_run(small_settings, **{"data.test": str(tmp_path / "gone")})
    page = build_page([find_run("small", str(tmp_path))])
    (sentence,) = [s for s in page.missing["small"] if s.startswith("Map and neighbours")]
    assert "gone" in sentence
    assert "How the encoder sees images" not in page.html


def test_names_are_not_taken_for_markup(small_settings: Settings, tmp_path: Path) -> None:
    folder = begun_run(small_settings, name="<b>&bold")
    html = build_page([find_run(str(folder), str(tmp_path))]).html
    assert "<b>" not in html
    assert "&lt;b&gt;&amp;bold" in html


def test_many_runs_are_shown_in_less_detail(
    two: list[RunRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one alone, which is compared with none: all its settings are there."""
    one = two[:1]
    whole = build_page(one).html
    assert "Settings setting small data.train" in text_of(whole)
    assert "side by side" not in text_of(whole)
    full = len(whole.encode())
    monkeypatch.setattr(page_module, "MOST_BYTES", full - 1)
    page = build_page(one)
    assert page.html.count('<div class="query">') == 2
    assert len(page.html.encode()) < full
    monkeypatch.setattr(page_module, "MOST_BYTES", 10_000)
    with pytest.raises(SettingsError, match="cannot show 1 runs; name fewer"):
        build_page(one)
