"""What of a preset's settings follows the method."""

from pathlib import Path
from typing import get_args

import pytest

from bt_ray.config import (
    Method,
    check_pretraining,
    differences,
    flatten,
    in_use,
    override,
    to_json,
)
from bt_ray.config.methods import TITLES
from bt_ray.errors import SettingsError
from bt_ray.method_presets import RECIPES, fit_to_data, with_method
from bt_ray.presets import PRESETS, preset
from pipelines.pretrain import parse

METHODS: tuple[Method, ...] = get_args(Method)


def test_each_method_has_a_recipe_and_a_title() -> None:
    assert set(METHODS) == set(RECIPES) == set(TITLES)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_takes_every_method(name: str, method: Method) -> None:
    """With layers no wider than the preset's, and at the paper's scale as wide as its paper's."""
    before = preset(name)
    settings = with_method(before, method)
    check_pretraining(settings)
    most = max(before.model.projector_widths)
    assert all(width <= most for width in settings.model.projector_widths)
    assert settings.objective.method == method
    assert settings.schedule == before.schedule
    assert settings.optimizer.weight_rate == before.optimizer.weight_rate
    if name == "imagenet_1000":
        first = {"byol": 4096, "wmse": 1024, "pirl": 128, "barlow_twins": 8192, "vicreg": 8192}
        assert settings.model.projector_widths[0] == first.get(method, 2048)


def test_what_is_given_beside_a_method_counts() -> None:
    given = parse(["digits", "--objective.method", "byol", "--model.projector-widths", "64", "32",
                   "--model.predictor-widths", "16", "32"])  # fmt: skip
    assert given.settings.model.projector_widths == (64, 32)
    assert given.settings.model.predictor_widths == (16, 32)
    alone = parse(["digits", "--objective.method", "byol"])
    assert alone.settings == with_method(preset("digits"), "byol")
    assert parse(["digits"]).settings == preset("digits")


def test_settings_of_a_run_stay_as_they_are_when_it_goes_on(tmp_path: Path) -> None:
    """A settings file names its method already: nothing follows it a second time."""
    own = override(
        with_method(preset("digits"), "simclr"), {"model.projector_widths": (48, 24), "name": "own"}
    )
    file = tmp_path / "settings.json"
    file.write_text(to_json(own))
    assert parse([str(file)]).settings == own
    assert parse([str(file), "--objective.method", "simclr"]).settings == own


def test_from_one_method_to_another_nothing_of_the_first_is_left() -> None:
    """But for widths, which are the first's where the second's are larger."""
    start = preset("digits")
    for first in METHODS:
        then = with_method(with_method(start, first), "wmse")
        kept = ("model.projector_widths", "views.small_px", "views.small_crop_area")
        assert [key for key in differences(then, with_method(start, "wmse"))
                if key not in kept] == []  # fmt: skip
    back = with_method(with_method(start, "simclr"), "barlow_twins")
    assert differences(back, start) == ["model.projector_widths"]


def test_negatives_and_prototypes_are_cut_to_the_data_with_a_sentence() -> None:
    settings = with_method(preset("digits"), "moco_v2")
    cut, sentence = fit_to_data(settings, 1437)
    assert cut.objective.moco_v2.queue_rows == 1280
    assert sentence is not None
    assert "objective.moco_v2.queue_rows from 65,536 to 1,280" in sentence
    assert fit_to_data(cut, 1437) == (cut, None)
    assert fit_to_data(settings, 10**6) == (settings, None)
    swav, _ = fit_to_data(with_method(preset("digits"), "swav"), 1437)
    assert swav.objective.swav.prototypes == 143
    assert swav.objective.moco_v2.queue_rows == 65_536, "another method's own are left alone"


def test_other_methods_settings_make_no_other_run() -> None:
    one = with_method(preset("digits"), "simclr")
    other = override(one, {"objective.byol.momentum": 0.9})
    assert differences(one, other) == []
    assert differences(one, override(one, {"objective.simclr.temperature": 0.5})) == [
        "objective.simclr.temperature"
    ]
    assert "objective.simclr.temperature" in in_use(one)
    assert "objective.byol.momentum" in flatten(one)
    assert "objective.byol.momentum" not in in_use(one)
    assert "objective.method" in differences(one, with_method(preset("digits"), "byol"))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"objective.method": "pirl"}, "objective.method=pirl needs views.small_count=9"),
        ({"objective.method": "simsiam"}, "objective.method=simsiam needs a predictor"),
        ({"views.small_count": 2}, "objective.method=barlow_twins takes no smaller views; swav"),
        (
            {"objective.method": "deepcluster", "schedule.epochs": 1, "schedule.warmup_epochs": 0},
            "schedule.epochs=1 must be at least 2",
        ),
        ({"objective.moco_v2.norm_rows": 1}, "norm_rows=1 must be at least 2"),
        ({"objective.byol.momentum": 1.5}, "objective.byol.momentum=1.5 must lie between 0 and 1"),
        ({"objective.simclr.temperature": 0.0}, "objective.simclr.temperature=0.0 must be a"),
        ({"objective.method": "mocov3"}, "objective.method='mocov3' must be one of barlow_twins"),
    ],
)
def test_what_does_not_go_together_is_said(changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence.replace("(", r"\(")):
        check_pretraining(override(preset("digits"), changes))
