"""Methods are compared on equal terms, and what cannot be compared is refused in a sentence."""

from typing import Any, get_args

import pytest
import torch

from bt_ray.checkpoints.start import untrained
from bt_ray.comparison.published import published_of
from bt_ray.comparison.study import UNTRAINED, Entrants, build_study, method_of, probe_every
from bt_ray.config import Method, Settings, flatten, override
from bt_ray.errors import SettingsError
from bt_ray.methods.build import LEARNERS, build_learner
from bt_ray.model.pretrained import Pretrained
from bt_ray.presets import preset
from tests.methods.harness import CPU, settings_of

METHODS: tuple[Method, ...] = tuple(LEARNERS)
SHARED = ("data.", "model.encoder", "schedule.", "training.", "probe.", "scaling.")


@pytest.mark.parametrize("on", ["digits", "images_vit", "imagenet_1000"])
def test_every_method_has_the_same_budget_and_encoder(on: str) -> None:
    settings = preset(on)
    study = build_study(settings, Entrants())
    study.check(settings)
    *cases, last = study.cases
    assert last == UNTRAINED
    assert {method_of(case) for case in cases} == set(get_args(Method))
    flat = [flatten(override(settings, case.changes)) for case in cases]
    for other in flat:
        for key, value in flat[0].items():
            if key.startswith(SHARED):
                assert other[key] == value, key
    name = settings.optimizer.rate_setting
    own = flatten(settings)[name]
    for case in cases:
        rates = [candidate[name] / own for candidate in case.candidates]
        assert rates == pytest.approx([0.5, 1, 2, 4])


def test_of_one_rate_nothing_is_searched() -> None:
    settings = preset("digits")
    case = build_study(settings, Entrants(methods=("simclr",), rates=(2.0,))).cases[0]
    assert case.candidates == ()
    own = override(settings, case.changes).optimizer.weight_rate
    assert own == pytest.approx(2 * settings.optimizer.weight_rate)


def test_methods_that_take_smaller_views_have_a_row_with_them() -> None:
    entrants = Entrants(methods=("barlow_twins", "swav"), small_views=4)
    study = build_study(preset("cifar10_small"), entrants)
    labels = ["Barlow Twins", "SwAV", "SwAV, multi-crop", UNTRAINED.label]
    assert [case.label for case in study.cases] == labels
    settings = override(preset("cifar10_small"), study.cases[2].changes)
    assert (settings.views.small_count, settings.views.small_px) == (4, 7)
    assert published_of(settings).top1 == 75.3


def test_a_curve_has_five_points_at_least() -> None:
    """The first is before training."""
    assert probe_every(override(preset("digits"), {"schedule.epochs": 2})) == 0.5
    assert probe_every(preset("digits")) == 5  # six probes as it is


@pytest.mark.parametrize("method", METHODS)
def test_first_weights_are_those_of_the_untrained_encoder(
    small_settings: Settings, method: Method
) -> None:
    """So one untrained encoder serves as the mark for all methods."""
    settings = settings_of(method, small_settings)
    learner = build_learner(settings, CPU, steps_per_epoch=2, num_images=360)
    found = learner.module.encoder.state_dict()
    drawn = untrained(Pretrained(learner.module.encoder, small_settings)).encoder.state_dict()
    assert found.keys() == drawn.keys()
    assert all(torch.equal(found[name], drawn[name]) for name in drawn)


@pytest.mark.parametrize(
    ("entrants", "sentence"),
    [
        ({"methods": ("simclrr",)}, "--methods simclrr is no method; did you mean simclr?"),
        ({"methods": ()}, "--methods names none"),
        ({"methods": ("simclr", "simclr")}, "names simclr twice"),
        ({"rates": ()}, "one at least"),
        ({"rates": (0.0, 1.0)}, "finite numbers above 0"),
        ({"rates": (1.0, 1.0)}, "has one twice"),
    ],
)
def test_what_cannot_be_compared_is_refused(entrants: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingsError) as refused:
        build_study(preset("digits"), Entrants(**entrants))
    assert sentence in str(refused.value)


def test_settings_of_another_method_are_refused() -> None:
    """Their projector would be taken for the preset's own."""
    settings = override(preset("digits"), {"objective.method": "simclr"})
    with pytest.raises(SettingsError, match="starts from settings of barlow_twins"):
        build_study(settings, Entrants())
