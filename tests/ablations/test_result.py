"""Results that were made once keep their names, whatever settings there are by now."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bt_ray.ablations import result
from bt_ray.ablations.result import key_of, read_result
from bt_ray.config import override
from bt_ray.method_presets import with_method
from bt_ray.presets import preset

RECORDED = Path(__file__).parents[2] / "docs" / "results" / "results"
FIRST = {
    "faa6258b7ecd77e2": ("cifar10_small", {}),
    "9403104694c3fd1c": ("cifar10_small", {"objective.variant": "invariance_only"}),
    "cca6568fddb412df": (
        "imagenet_300",
        {"model.predictor_widths": (8192, 8192), "training.seed": 3},
    ),
}
"""Keys that the code had before there were other methods, of shards with a sum of zeros."""


@pytest.fixture(autouse=True)
def no_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = SimpleNamespace(shards=[SimpleNamespace(content="0" * 64)])
    opened = SimpleNamespace(open=lambda root: SimpleNamespace(manifest=manifest))
    monkeypatch.setattr(result, "ShardSet", opened)


@pytest.mark.parametrize("key", FIRST)
def test_keys_are_what_they_were_before_there_were_methods(key: str) -> None:
    name, changes = FIRST[key]
    assert key_of(override(preset(name), changes), "knn and fast linear") == key


def test_recorded_results_are_still_those_of_their_settings() -> None:
    """Each is found by its name, for the settings that it says it has."""
    files = sorted(RECORDED.glob("*.json"))
    assert len(files) > 50
    for file in files:
        kept: dict[str, Any] = json.loads(file.read_text())["settings"]
        changes = {name: tuple(v) if isinstance(v, list) else v for name, v in kept.items()}
        assert read_result(RECORDED, file.stem, override(preset("cifar10_small"), changes))


def test_methods_and_their_own_settings_have_keys_of_their_own() -> None:
    """Another method's setting changes nothing."""
    settings = preset("digits")
    byol = with_method(settings, "byol")
    keys = [
        key_of(of, "knn")
        for of in (
            settings,
            override(settings, {"objective.method": "simclr"}),
            byol,
            override(byol, {"objective.byol.momentum": 0.9}),
        )
    ]
    assert len(set(keys)) == 4
    assert key_of(override(byol, {"objective.simclr.temperature": 0.7}), "knn") == keys[2]
