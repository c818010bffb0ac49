import json
import math

import pytest

from bt_ray.config import flatten, from_json, override, to_json
from bt_ray.errors import SettingsError
from bt_ray.presets import PRESETS, preset


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_survives_json(name: str) -> None:
    settings = preset(name)
    assert from_json(to_json(settings)) == settings


def test_paper_preset_holds_the_numbers_of_section_2_2() -> None:
    settings = preset("imagenet_1000")
    assert settings.model.encoder == "resnet50"
    assert settings.model.projector_widths == (8192, 8192, 8192)
    assert settings.data.global_batch == 2048
    assert settings.objective.redundancy_weight == 5e-3
    assert (settings.schedule.epochs, settings.schedule.warmup_epochs) == (1000, 10)
    assert settings.schedule.final_factor == 1e-3
    assert settings.scaling.workers == 32
    assert preset("imagenet_300").schedule.epochs == 300


def test_published_rates_become_those_of_the_true_gradient() -> None:
    optimizer = preset("imagenet_1000").optimizer
    assert (optimizer.weight_rate, optimizer.bias_rate, optimizer.weight_decay) == (
        0.2,
        0.0048,
        1.5e-6,
    )
    assert math.isclose(optimizer.true_bias_rate, 1.5e-4)
    assert math.isclose(optimizer.true_weight_decay, 4.8e-5)
    assert preset("imagenet_1000").rate_scale == 8


def test_override_replaces_a_value_and_leaves_the_rest() -> None:
    settings = preset("digits")
    changed = override(settings, {"objective.redundancy_weight": 0.01, "name": "other"})
    differing = {k for k, v in flatten(changed).items() if v != flatten(settings)[k]}
    assert differing == {"objective.redundancy_weight", "name"}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"objective.redundancy_wieght": 1.0}, "the nearest is 'objective.redundancy_weight'"),
        ({"objective": 1.0}, "There is no setting 'objective'"),
        ({"objective.redundancy_weight": math.nan}, "redundancy_weight=nan must be a finite"),
        ({"objective.redundancy_weight": -1.0}, "above 0"),
        ({"optimizer.weight_rate": 0.0}, "optimizer.weight_rate=0.0 must be a finite number"),
        ({"data.global_batch": 1000, "scaling.workers": 3}, "try 999 or 1002"),
        ({"data.global_batch": "many"}, "data.global_batch='many' must be of type int"),
        ({"views.crop_area": [0.5]}, "2 of them"),
        ({"views.crop_area": [0.9, 0.5]}, "low <= high"),
        ({"views.crop_min_px": -1}, "views.crop_min_px=-1 must be 0"),
        ({"views.rotation_degrees": 181.0}, "between 0 and 180"),
        ({"views.vertical_flip_probability": 1.5}, "between 0 and 1"),
        ({"model.encoder": "resnet51"}, "must be one of conv4"),
        ({"model.projector_widths": []}, "at least one width"),
        ({"model.predictor_widths": [64, 32]}, "end with 512, as model.projector_widths"),
        ({"model.predictor_widths": []}, "end with 512"),
        ({"objective.variant": "cross_correlation"}, "must be one of barlow_twins"),
        ({"objective.temperature": 0.0}, "objective.temperature=0.0 must be a finite number"),
        ({"objective.variant": "cross_entropy", "objective.form": "gram"}, "use auto"),
        ({"objective.variant": "cross_entropy", "model.projector_widths": [1]}, "two dimensions"),
        ({"schedule.warmup_epochs": 1e9}, "between 0 and schedule.epochs"),
        ({"name": "a/b"}, "plain folder name"),
    ],
)
def test_bad_values_are_refused_in_one_sentence(changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence.replace("(", r"\(")):
        override(preset("digits"), changes)


def test_json_with_an_unknown_key_is_refused() -> None:
    tree = json.loads(to_json(preset("digits")))
    tree["views"]["image_size"] = 32
    with pytest.raises(SettingsError, match=r"views\.image_size.*nearest"):
        from_json(json.dumps(tree))


def test_json_that_lacks_a_section_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"Incomplete settings: .*data"):
        from_json('{"name": "x"}')


def test_text_that_is_not_json_is_refused() -> None:
    with pytest.raises(SettingsError, match="not JSON"):
        from_json("name: x")


def test_unknown_preset_names_those_there_are() -> None:
    with pytest.raises(SettingsError, match="digits, cifar10"):
        preset("cifar")
