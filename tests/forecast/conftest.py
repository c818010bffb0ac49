"""The paper's run on 32 GPUs, counted once."""

import pytest

from bt_ray.config import Settings
from bt_ray.forecast.place import parse_place
from bt_ray.forecast.planner import Counts, at_place, count
from bt_ray.presets import preset


@pytest.fixture(scope="session")
def paper() -> Settings:
    return at_place(preset("imagenet_1000"), parse_place("32 V100, 100GbE"))


@pytest.fixture(scope="session")
def counts(paper: Settings) -> Counts:
    return count(paper)
