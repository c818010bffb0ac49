from pathlib import Path
from typing import Any

import pytest
from optuna import Trial

from bt_ray.config import check_pretraining, flatten, override
from bt_ray.errors import SettingsError
from bt_ray.method_presets import RECIPES, with_method
from bt_ray.presets import PRESETS, preset
from bt_ray.tuning.space import Changes, SearchSpace, load_space

SPACES = [
    file.stem
    for file in (Path(__file__).parents[2] / "tune_spaces").glob("*.py")
    if file.stem != "__init__"
]


def space(changes: Changes, **more: Any) -> SearchSpace:
    """One that draws `rate` and always changes the same."""

    def propose(trial: Trial) -> Changes:
        trial.suggest_float("rate", 0.1, 1.0)
        return changes

    return SearchSpace(name="s", propose=propose, **more)


ON = {name: ("digits", "imagenet_1000") if name in RECIPES else tuple(PRESETS) for name in SPACES}
"""Presets that a space is tried on: a small and a large one for methods, which say their widths."""


@pytest.mark.parametrize(("name", "on"), [(name, on) for name in SPACES for on in ON[name]])
def test_every_key_point_and_grid_of_a_space_fits_presets(name: str, on: str) -> None:
    """Those of a method's own settings fit the preset once it is that method's."""
    found = load_space(name)
    settings = with_method(preset(on), name) if name in RECIPES else preset(on)  # type: ignore[arg-type]
    found.check(settings)
    assert found.name == name
    for changes in found.draw(20):
        assert changes.keys() <= flatten(settings).keys()


@pytest.mark.parametrize("method", sorted(set(RECIPES) - {"barlow_twins"}))
def test_a_method_s_space_begins_with_its_paper_s_numbers(method: str) -> None:
    """They are the settings' defaults; and it varies no other method's settings."""
    own = flatten(preset("imagenet_300"))
    (first,) = load_space(method).draw(1)
    of_objective = {key: value for key, value in first.items() if key.startswith("objective.")}
    assert all(key.startswith(f"objective.{method}.") for key in of_objective)
    assert of_objective == pytest.approx({key: own[key] for key in of_objective})


def test_a_space_of_another_method_is_refused() -> None:
    """Its trials would all be the same."""
    with pytest.raises(
        SettingsError, match=r"counts only with objective\.method=simclr; add --obj"
    ):
        load_space("simclr").check(preset("digits"))


@pytest.mark.parametrize("batch", [128, 256, 384])
def test_whitened_rows_divide_usual_batches(batch: int) -> None:
    """And there are more of them than dimensions."""
    settings = override(with_method(preset("digits"), "wmse"), {"data.global_batch": batch})
    for changes in load_space("wmse").draw(50):
        assert batch % changes["objective.wmse.rows"] == 0
        check_pretraining(override(settings, changes))


def test_values_that_pretraining_refuses_are_refused_before_any_trial() -> None:
    settings = override(with_method(preset("digits"), "wmse"), {"data.global_batch": 192})
    said = r"'wmse' draws what cannot be trained: objective\.wmse\.rows=\d+ must divide .*=192\."
    with pytest.raises(SettingsError, match=said):
        load_space("wmse").check(override(settings, {"objective.wmse.rows": 64}))


def test_the_papers_values_are_tried_first() -> None:
    assert load_space("redundancy_weight").draw(1) == [{"objective.redundancy_weight": 5e-3}]
    for changes in load_space("learning_rates").draw(4):
        assert changes["optimizer.weight_rate"] == 0.2
        assert changes["optimizer.bias_rate"] == 0.0048
    assert load_space("augmentations").draw(1) == [{}]  # all of them, as the preset has them


def test_a_projector_has_the_depth_that_was_drawn() -> None:
    """Its hidden width is drawn only if there are hidden layers."""
    projector = load_space("projector")
    drawn = list(projector._draws(200))
    assert {params["depth"] for params, _ in drawn} == {1, 2, 3, 4, 5}
    for params, changes in drawn:
        assert len(changes["model.projector_widths"]) == params["depth"]
        assert ("hidden_width" in params) == (params["depth"] > 1)


def test_each_batch_size_has_rates_of_its_own() -> None:
    for params, changes in load_space("learning_rates")._draws(30):
        batch = changes["data.global_batch"]
        assert set(params) == {"batch", f"weight_rate_{batch}", f"bias_rate_{batch}"}


def test_views_lose_what_is_switched_off() -> None:
    augmentations = load_space("augmentations")
    views = [override(preset("cifar10"), c).views for _, c in augmentations._fixed()][1:]
    assert views[0] == preset("cifar10").views
    assert views[-1] == preset("cifar10").views.without(
        "flip", "jitter", "grayscale", "blur", "solarize"
    )


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (space({}), "is empty"),
        (space({"objective.lambda": 1.0}), "no setting 'objective.lambda'"),
        (space({"optimizer.weight_rate": "fast"}), "must be of type float"),
        (space({"optimizer.weight_rate": -1.0}), "must be a finite number above 0"),
        (
            SearchSpace(name="s", propose=lambda trial: {"optimizer.weight_rate": 0.2}),
            "draws nothing",
        ),
        (
            space({"optimizer.weight_rate": 0.2}, points=({"rat": 0.5},)),
            "cannot draw its point",
        ),
        (
            space({"optimizer.weight_rate": 0.2}, points=({"rate": 0.5, "more": 1},)),
            "names more, which it does not draw",
        ),
        (
            space({"optimizer.weight_rate": 0.2}, points=({"rate": 7.0},)),
            "cannot draw its point",
        ),
    ],
)
def test_a_space_that_cannot_work_is_refused(broken: SearchSpace, sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        broken.check(preset("digits"))


def test_an_unknown_space_says_where_to_put_it() -> None:
    with pytest.raises(SettingsError, match=r"tune_spaces/nothing\.py"):
        load_space("nothing")


def test_a_space_may_lie_anywhere(tmp_path: Path) -> None:
    source = Path(__file__).parents[2] / "tune_spaces" / "redundancy_weight.py"
    mine = tmp_path / "mine.py"
    mine.write_text(source.read_text())
    assert load_space(str(mine)).points == ({"redundancy_weight": 5e-3},)
    mine.write_text("")
    with pytest.raises(SettingsError, match="defines no SPACE"):
        load_space(str(mine))
    with pytest.raises(SettingsError, match="give a file that exists"):
        load_space(str(tmp_path / "absent.py"))


@pytest.mark.parametrize("content", ["SPACE = (", "import nothing_of_that_name", "1 / 0"])
def test_a_file_that_cannot_be_run_is_named(tmp_path: Path, content: str) -> None:
    file = tmp_path / "mine.py"
    file.write_text(content)
    with pytest.raises(SettingsError, match=r"mine\.py cannot be read \(\w+Error: .*mend it"):
        load_space(str(file))


def test_an_error_in_propose_is_named_before_the_first_trial() -> None:
    space = SearchSpace(name="mine", propose=lambda trial: {"x": nobody_knows})  # type: ignore[name-defined]  # noqa: F821
    with pytest.raises(SettingsError, match="'mine' cannot propose values: NameError"):
        space.check(preset("digits"))
