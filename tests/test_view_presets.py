"""Presets of views: complete, cited, and put under what is said beside them."""

import inspect
from typing import get_args

import pytest

from bt_ray.config import ViewSettings, flatten, from_json, idle_colours, override, to_json
from bt_ray.errors import SettingsError
from bt_ray.presets import PRESETS, preset
from bt_ray.view_presets import VIEW_PRESETS, ViewPreset, simclr, with_views
from pipelines.pretrain import parse

KEPT = ("views.count", "views.image_px", "views.photometry", "views.backend")


def test_every_preset_of_views_can_be_named_and_says_where_it_is_from() -> None:
    assert set(VIEW_PRESETS) == set(get_args(ViewPreset))
    for name, make in VIEW_PRESETS.items():
        assert make.__name__ == name
        assert "Source: " in (inspect.getdoc(make) or "")
    assert len({make() for make in VIEW_PRESETS.values()}) == len(VIEW_PRESETS)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("views", VIEW_PRESETS)
def test_views_change_distortions_alone_and_are_stored_as_numbers(
    name: str, views: ViewPreset
) -> None:
    before, after = preset(name), with_views(preset(name), views)
    told = flatten(after)
    for key, value in flatten(before).items():
        assert key.startswith("views.") or told[key] == value
        assert key not in KEPT or told[key] == value
    assert from_json(to_json(after)) == after


def test_smaller_views_stay_as_they_are() -> None:
    changes = {
        "views.small_count": 9, "views.small_px": 8, "views.small_kind": "jigsaw",
        "views.small_crop_area": [0.6, 1.0],
    }  # fmt: skip
    after = with_views(override(preset("cifar10"), changes), "simclr").views
    assert (after.small_count, after.small_px, after.small_kind) == (9, 8, "jigsaw")
    assert after.small_crop_area == (0.6, 1.0)


def test_byol_s_views_are_the_paper_s_and_simclr_s_are_alike_in_both() -> None:
    paper = preset("imagenet_1000")
    assert with_views(paper, "byol") == paper
    strong = simclr()
    assert strong.blur_probability == (0.5, 0.5)
    assert strong.solarize_probability == (0.0, 0.0)
    assert (strong.jitter_brightness, strong.jitter_hue) == (0.8, 0.2)


def test_what_is_said_beside_a_preset_of_views_counts_wherever_it_stands() -> None:
    flags = ["--views.blur-probability", "0.25", "0.75"]
    for arguments in (["--views-preset", "simclr", *flags], [*flags, "--views-preset", "simclr"]):
        views = parse(["cifar10", *arguments]).settings.views
        assert views.blur_probability == (0.25, 0.75)
        assert views.jitter_saturation == 0.8
        assert views.image_px == 32
    assert parse(["cifar10"]).settings == preset("cifar10")


def test_an_unknown_preset_of_views_is_answered_with_those_there_are(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        parse(["cifar10", "--views-preset", "simple"])
    assert "medical_gray" in capsys.readouterr().err


@pytest.mark.parametrize("channels", [1, 4])
def test_settings_of_colours_that_change_nothing_are_named(channels: int) -> None:
    settings = override(preset("images"), {"data.channels": channels})
    sentence = idle_colours(settings) or ""
    assert "(views.jitter_saturation=0.2, views.jitter_hue=0.1, views.gray" in sentence
    assert f"data.channels={channels}" in sentence
    for name in ("medical_gray", "multispectral"):
        assert idle_colours(with_views(settings, name)) is None  # type: ignore[arg-type]
    without_jitter = override(
        settings, {"views.jitter_probability": 0.0, "views.grayscale_probability": 0.1}
    )
    assert "hue" not in (idle_colours(without_jitter) or "")
    assert idle_colours(preset("images")) is None


def test_views_outside_of_their_ranges_are_refused() -> None:
    with pytest.raises(SettingsError, match="rotation_degrees=-1"):
        ViewSettings(rotation_degrees=-1.0)
