"""The page on methods has every method, its settings and their defaults, as the code has them."""

from dataclasses import asdict
from pathlib import Path

import pytest

from bt_ray.config import Method
from bt_ray.config.methods import TITLES
from bt_ray.config.model import ObjectiveSettings
from bt_ray.method_presets import with_method
from bt_ray.presets import preset

PAGE = (Path(__file__).parents[2] / "docs" / "methods.md").read_text()


def row_of(method: Method) -> list[str]:
    """The cells of the table's row, without the bars."""
    [line] = [
        line for line in PAGE.splitlines() if line.startswith(f"| {TITLES[method]} | `{method}`")
    ]
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize("method", TITLES)
def test_the_page_tells_of_a_method_what_its_settings_are(method: Method) -> None:
    assert f"\n### {TITLES[method]}\n" in PAGE
    if method == "barlow_twins":
        return
    _, _, heads, settings = row_of(method)
    own = asdict(ObjectiveSettings()).get(method, {})
    assert settings == ", ".join(f"`{name}` {value}" for name, value in own.items())
    model = with_method(preset("imagenet_1000"), method).model
    assert heads.split(",")[0].split(";")[0] == "-".join(map(str, model.projector_widths))
    predictor = heads.split("; ")[1] if ";" in heads else ""
    assert predictor == "-".join(map(str, model.predictor_widths or ()))
