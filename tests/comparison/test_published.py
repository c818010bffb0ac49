"""Published scores are those of the paper, and of the right variant of a method."""

from dataclasses import asdict

import pytest

from bt_ray.comparison.published import TABLES, published_of
from bt_ray.config import override
from bt_ray.evaluation import published
from bt_ray.method_presets import RECIPES, with_method
from bt_ray.presets import preset


def test_barlow_twins_has_what_evaluations_show_beside_theirs() -> None:
    """Two files hold the paper's numbers of the method: they agree."""
    own = asdict(TABLES["barlow_twins"])
    (linear,), semi = published.LINEAR, published.SEMI[0]
    assert {name: own[name] / 100 for name in ("top1", "top5")} == pytest.approx(linear.scores)
    in_words = {f"{share} % {k}": own[f"semi_{share}pct_{k}"] / 100
                for share in (1, 10) for k in ("top1", "top5")}  # fmt: skip
    assert in_words == pytest.approx(semi.scores)
    assert own["places205"] / 100 == pytest.approx(published.PLACES205[0].scores["top1"])
    assert own["inat18"] / 100 == pytest.approx(published.INATURALIST18[0].scores["top1"])
    assert own["voc07"] / 100 == pytest.approx(published.VOC07[0].scores["mAP, 11-point"])


def test_only_methods_have_scores() -> None:
    assert TABLES.keys() <= RECIPES.keys()
    assert published_of(with_method(preset("digits"), "vicreg")) == published_of(
        with_method(preset("digits"), "nat")
    )


def test_swav_is_published_with_and_without_smaller_views() -> None:
    """Multi-crop is what made its best score."""
    settings = with_method(preset("digits"), "swav")
    assert published_of(settings).top1 == 71.8
    assert published_of(override(settings, {"views.small_count": 6})).top1 == 75.3
