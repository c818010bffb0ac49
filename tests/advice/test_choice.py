"""Each rule, by cases."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from bt_ray.advice.choice import (
    WEIGHT_RATES,
    choose_batch,
    choose_epochs,
    choose_rate,
    choose_views,
)
from bt_ray.advice.duplicates import Duplicates
from bt_ray.advice.glance import Glance, Kind
from bt_ray.advice.names import find_test, name_anywhere, name_run
from bt_ray.advice.network import Network, choose_network
from bt_ray.advice.recipes import Recipe, recipes
from bt_ray.advice.room import fit
from bt_ray.advice.survey import Survey
from bt_ray.config import DataSettings, Settings, override
from bt_ray.forecast.forecast import Forecast
from bt_ray.presets import preset

CPU = torch.device("cpu")


def surveyed(
    count: int = 1000,
    *,
    side: int = 64,
    is_grey: bool = False,
    classes: dict[str, int] | None = None,
) -> Survey:
    one = Glance(
        name="a", width=side, height=side, kind=Kind(channels=3, bits=8), is_grey=is_grey,
        digest=b"", fingerprint=np.zeros(4, np.uint64),
    )  # fmt: skip
    return Survey(
        count=count, seen=[one], unreadable=[], class_sizes=classes or {},
        duplicates=Duplicates(exact=(), near=(), num_spare=0),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("count", "has_gpu", "batch"),
    [
        (16, False, 4),
        (301, False, 64),  # as the preset `images` has it for these
        (1_437, False, 256),  # … `digits`
        (50_000, False, 256),  # … `cifar10`
        (1_281_167, False, 256),
        (50_000, True, 256),
        (110_000, True, 512),
        (1_281_167, True, 1024),  # the paper's best (Fig. 2)
    ],
)
def test_a_batch_leaves_an_epoch_some_steps(count: int, has_gpu: bool, batch: int) -> None:
    chosen = choose_batch(count, has_gpu=has_gpu).changes["data.global_batch"]
    assert chosen == batch
    assert count // chosen >= 4


@pytest.mark.parametrize(
    ("side", "count", "has_gpu", "encoders"),
    [
        (8, 1_437, False, ["conv4 16"]),
        (28, 60_000, False, ["resnet18 32", "conv6 32", "conv4 32"]),
        (32, 50_000, False, ["resnet18 32", "conv6 32", "conv4 32"]),
        (32, 5_000, True, ["conv6 32", "conv4 32"]),
        (64, 5_000, True, ["conv6 64", "conv4 32"]),
        (95, 100_000, True, ["resnet18 64", "conv6 64", "conv4 32"]),
        (96, 5_000, True, ["resnet18 96", "conv6 64", "conv4 32"]),
        (480, 364, False, ["conv6 64", "conv4 32"]),
        (374, 5_000, False, ["resnet18 224", "resnet18 128", "conv6 64", "conv4 32"]),
        (375, 1_281_167, True,
         ["resnet50 224", "resnet18 224", "resnet18 128", "conv6 64", "conv4 32"]),
    ],
)  # fmt: skip
def test_networks_suit_the_images(
    side: int, count: int, has_gpu: bool, encoders: list[str]
) -> None:
    found = recipes(side=side, count=count, has_gpu=has_gpu)
    assert [f"{recipe.encoder} {recipe.image_px}" for recipe in found] == encoders
    small_stems = {r.stem == "cifar" for r in found if r.encoder == "resnet18"}
    assert small_stems <= {side < 96}


def test_the_papers_projector_is_for_gpus() -> None:
    widths = [recipes(side=375, count=10**6, has_gpu=gpu)[0].width for gpu in (False, True)]
    assert widths == [2048, 8192]


@pytest.mark.parametrize(
    ("side", "px", "is_grey", "expected"),
    [
        (480, 64, False, {"crop_area": (0.08, 1.0), "jitter_hue": 0.1, "grayscale_probability": 0.2,
                          "blur_probability": (1.0, 0.1)}),
        (32, 32, False, {"crop_area": (0.2, 1.0), "jitter_hue": 0.1, "grayscale_probability": 0.2,
                         "blur_probability": (0.0, 0.0)}),
        (8, 16, True, {"crop_area": (0.5, 1.0), "jitter_hue": 0.0, "jitter_saturation": 0.0,
                       "grayscale_probability": 0.0, "solarize_probability": (0.0, 0.0)}),
        (480, 224, True, {"crop_area": (0.08, 1.0), "jitter_hue": 0.0, "jitter_saturation": 0.0,
                          "jitter_brightness": 0.4, "blur_probability": (1.0, 0.1)}),
    ],
)  # fmt: skip
def test_views_keep_what_can_be_seen(
    side: int, px: int, is_grey: bool, expected: dict[str, Any]
) -> None:
    choice = choose_views(surveyed(side=side, is_grey=is_grey), px)
    views = override(preset("images"), choice.changes).views
    assert views.image_px == px
    assert {name: getattr(views, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("batch", "total", "rate", "trust"),
    [
        (256, 50_000 * 14, 0.2, 0.02),  # as the preset `cifar10`
        (32, 10**5, 0.2, 0.02),
        (32, 10**8, 1.0, 0.001),
        (256, 300 * 1_281_167, 0.4, 0.001),
        (1024, 300 * 1_281_167, 0.25, 0.001),
        (4096, 300 * 1_281_167, 0.2, 0.001),  # the paper's
    ],
)
def test_rates_are_the_authors_in_long_runs_and_the_presets_in_short_ones(
    batch: int, total: int, rate: float, trust: float
) -> None:
    changes = choose_rate(batch, total).changes
    assert changes["optimizer.weight_rate"] == rate
    assert changes["optimizer.trust_coefficient"] == trust


def test_the_authors_rates_fall_with_the_batch_as_they_published_them() -> None:
    assert WEIGHT_RATES == {64: 1.0, 128: 0.7, 256: 0.4, 512: 0.3, 1024: 0.25, 2048: 0.2}


@pytest.mark.parametrize(
    ("hours", "each", "epochs"),
    [(8.0, 0.01, 300), (1.0, 0.05, 18), (1.0, 5.0, 1), (1.0, None, 300)],
)
def test_epochs_fill_nine_tenths_of_the_hours(
    hours: float, each: float | None, epochs: int
) -> None:
    changes = choose_epochs(hours, each).changes
    assert changes["schedule.epochs"] == epochs
    assert 1 <= changes["schedule.warmup_epochs"] <= min(10, epochs)
    override(preset("images"), changes)


def _network(hours_of: dict[str, float | None], *, hours: float, fits: str = "") -> Network:
    """What is chosen of three networks that take so many hours an epoch."""
    candidates = [
        (Recipe(encoder=name, image_px=32, width=8),
         override(preset("images"), {"model.encoder": name}))
        for name in ("resnet50", "resnet18", "conv6")
    ]  # fmt: skip
    return choose_network(
        candidates,
        hours=hours,
        fit=lambda s: None if s.model.encoder in fits else s,
        look_ahead=lambda s: cast(
            Forecast, SimpleNamespace(device=CPU, hours=hours_of[s.model.encoder])
        ),
    )


@pytest.mark.parametrize(
    ("hours", "fits", "encoder", "why"),
    [
        (200.0, "", "resnet50", "the largest"),
        (20.0, "", "resnet18", "would manage 18.0 epochs in 20 hours"),
        (200.0, "resnet50", "resnet18", "resnet50, on views of 32 pixels does not fit into memory"),
        (0.001, "", "conv6", "resnet18"),
    ],
)
def test_the_largest_network_with_time_for_twenty_epochs_is_taken(
    hours: float, fits: str, encoder: str, why: str
) -> None:
    chosen = _network({"resnet50": 1.0, "resnet18": 0.5, "conv6": 0.1}, hours=hours, fits=fits)
    assert chosen.recipe.encoder == encoder
    assert why in chosen.why


@pytest.mark.parametrize(
    ("memory", "batch", "again"),
    [
        (256.0, 256, False),
        (255.0, 256, True),
        (153.0, 128, False),
        (127.0, 128, True),
        (64.0, 64, False),
        (60.0, 64, True),
    ],
)
def test_what_does_not_fit_is_computed_again_and_then_made_smaller(
    memory: float, batch: int, again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image takes a byte here, and 0.6 where blocks are computed again."""

    def measured(settings: Settings) -> SimpleNamespace:
        each = 0.6 if settings.training.activation_checkpointing else 1.0
        return SimpleNamespace(memory=SimpleNamespace(total=each * settings.data.global_batch))

    monkeypatch.setattr("bt_ray.advice.room.measure_size", measured)
    wanted = override(preset("images"), {"model.encoder": "resnet18", "data.global_batch": 256})
    fitted = fit(wanted, CPU, memory)
    assert fitted is not None
    assert fitted.data.global_batch == batch
    assert fitted.training.activation_checkpointing == again
    assert fit(wanted, CPU, 38.0) is None
    plain = override(wanted, {"model.encoder": "conv6"})
    assert fit(plain, CPU, 255.0) == override(plain, {"data.global_batch": 128})


@pytest.mark.parametrize(
    ("folders", "found"),
    [
        (["train", "test"], "test"),
        (["train", "val"], "val"),
        (["train", "val", "test"], "test"),
        (["train", "val", "valid"], None),
        (["train", "other_test"], None),
        (["train"], None),
    ],
)
def test_held_out_images_lie_beside(folders: list[str], found: str | None, tmp_path: Path) -> None:
    for folder in folders:
        (tmp_path / folder).mkdir()
    assert find_test(str(tmp_path / "train")) == (found and str(tmp_path / found))


def test_a_run_is_named_after_its_images_and_after_no_other_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = str(tmp_path)
    assert name_run("/data/My birds/train", storage) == "My-birds"
    assert name_run("digits", storage) == "digits"
    assert name_run("/data/VOC2007/JPEGImages/", storage) == "VOC2007"
    assert name_run("s3://bucket/photos?region=eu", storage) == "region-eu"
    (tmp_path / "digits").mkdir()
    assert name_run("digits", storage) == "digits-2"
    monkeypatch.chdir(tmp_path)
    assert name_anywhere("digits") == str(tmp_path / "digits")  # a folder here
    assert name_anywhere("cifar10") == "cifar10"


def test_choices_are_settings_that_exist() -> None:
    settings = Settings(name="x", data=DataSettings(train="t"))
    for choice in (
        choose_batch(500, has_gpu=False), choose_views(surveyed(), 64), choose_rate(64, 1e6),
        choose_epochs(1.0, 0.1),
    ):  # fmt: skip
        override(settings, choice.changes)
        assert choice.why.endswith(".")
