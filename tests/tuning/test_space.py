from pathlib import Path

import pytest
from ray import tune

from bt_ray.config import flatten
from bt_ray.errors import SettingsError
from bt_ray.presets import preset
from bt_ray.tuning.space import SearchSpace, load_space
from bt_ray.tuning.sweep import sweep

SPACES = [
    file.stem
    for file in (Path(__file__).parents[2] / "tune_spaces").glob("*.py")
    if file.stem != "__init__"
]


@pytest.mark.parametrize("name", SPACES)
def test_every_key_and_point_of_a_space_is_a_setting(name: str) -> None:
    space = load_space(name)
    space.check(preset("digits"))
    assert space.name == name
    assert space.parameters.keys() <= flatten(preset("digits")).keys()


def test_paper_value_is_tried_first() -> None:
    assert load_space("redundancy_weight").points == ({"objective.redundancy_weight": 5e-3},)


@pytest.mark.parametrize(
    ("space", "trials", "sentence"),
    [
        (SearchSpace(name="s", parameters={}), 1, "is empty"),
        (
            SearchSpace(name="s", parameters={"lambda": tune.uniform(0, 1)}),
            1,
            "no setting 'lambda'",
        ),
        (load_space("redundancy_weight"), 0, "trials=0"),
    ],
)
def test_a_sweep_that_cannot_work_is_refused_at_once(
    space: SearchSpace, trials: int, sentence: str
) -> None:
    with pytest.raises(SettingsError, match=sentence):
        sweep(space, preset("digits"), trials=trials)


def test_an_unknown_space_says_where_to_put_it() -> None:
    with pytest.raises(SettingsError, match=r"tune_spaces/nothing\.py"):
        load_space("nothing")
