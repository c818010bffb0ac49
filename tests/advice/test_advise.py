"""From folders to settings: what is chosen, and what is said of the images."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from bt_ray.advice.advise import Advice, Request, advise
from bt_ray.config import Settings, check_pretraining, from_json, to_json
from bt_ray.errors import DataError, SettingsError
from bt_ray.forecast.forecast import Forecast
from tests.advice.scenes import encode, scene, two_classes
from tests.data.pictures import write_folder


@pytest.fixture(autouse=True)
def _on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this machine has, and whatever cluster its environment names."""
    for module in ("advise", "hardware"):
        monkeypatch.setattr(f"bt_ray.advice.{module}.find_device", lambda _: torch.device("cpu"))


def advised(train: str, storage: Path, *, hours_an_epoch: float = 0.01, **more: Any) -> Advice:
    """Advice for a machine on which each network takes as long."""

    def look_ahead(settings: Settings) -> Forecast:
        device, epochs = torch.device("cpu"), settings.schedule.epochs
        return cast(Forecast, SimpleNamespace(device=device, hours=hours_an_epoch * epochs))

    request = Request(train=train, storage=str(storage / "runs"), **more)
    advice = advise(request, look_ahead=look_ahead)
    check_pretraining(advice.settings)
    assert from_json(to_json(advice.settings)) == advice.settings
    return advice


def said(advice: Advice, words: str) -> bool:
    """Whether one of the cautions has these words."""
    return any(words in sentence for sentence in advice.cautions)


def test_settings_are_those_that_were_chosen(tmp_path: Path) -> None:
    train = two_classes(tmp_path / "set" / "train", each=20)
    test = two_classes(tmp_path / "set" / "test", each=5, first=500)
    advice = advised(train, tmp_path, hours=1.0)
    settings = advice.settings
    assert (settings.name, settings.data.train, settings.data.test) == ("set", train, test)
    assert settings.data.global_batch == 8
    assert (settings.model.encoder, settings.views.image_px) == ("conv6", 48)
    assert settings.schedule.epochs == 90
    assert settings.probe.neighbors is None  # the probe chooses it
    assert settings.scaling.workers == 1
    whats = [choice.what for choice in advice.choices]
    assert len(whats) == len(set(whats))
    assert said(advice, "40 images are few")
    assert not said(advice, "held-out images")
    assert not said(advice, "training images, too")


def test_a_run_of_minutes_needs_no_ray(tmp_path: Path) -> None:
    train = two_classes(tmp_path / "set", each=20)
    assert advised(train, tmp_path, hours_an_epoch=1e-4).settings.scaling.workers == 0


def test_images_that_are_there_twice_or_held_out_as_well_are_said(tmp_path: Path) -> None:
    twice = encode(scene(3), quality=50)
    train = two_classes(tmp_path / "train", each=20, cat_again=twice)
    two_classes(tmp_path / "test", each=3)  # found beside
    advice = advised(train, tmp_path)
    assert advice.leak is not None
    assert len(advice.leak.exact) == 6
    assert said(advice, "Images that show a picture again: 1 of 41, as in 'cat/3.jpg', 'cat/again.")
    assert said(advice, "Held-out images that are training images, too: 6, such as")
    assert not said(advice, "were looked at")
    sampled = advised(train, tmp_path, most_images=30)
    assert sampled.train.num_looked_at == 30
    assert said(sampled, "Only 30 of 41 training images were looked at")


def test_labels_that_are_missing_or_one_are_said(tmp_path: Path) -> None:
    flat = write_folder(tmp_path / "flat", {f"{i}.jpg": encode(scene(i)) for i in range(20)})
    advice = advised(flat, tmp_path)
    assert said(advice, "There are no labels")
    assert advice.settings.data.test is None
    one = write_folder(tmp_path / "one", {f"a/{i}.jpg": encode(scene(i)) for i in range(20)})
    advice = advised(one, tmp_path, test=one)
    assert said(advice, "All images have one label")
    assert (advice.settings.data.labels, advice.settings.data.test) == ("none", None)
    assert said(advised(two_classes(tmp_path / "two"), tmp_path), "There are no held-out images")


def test_kinds_and_sizes_that_harm_are_said(tmp_path: Path) -> None:
    images = {f"{i}.jpg": encode(scene(i, (128, 128))) for i in range(20)}
    small = {f"s{i}.png": encode(scene(90 + i, (20, 30)).convert("L"), "PNG") for i in range(3)}
    mixed = write_folder(tmp_path / "mixed", images | small | {"bad.jpg": b"\xff\xd8broken"})
    advice = advised(mixed, tmp_path)
    assert said(advice, "20 RGB, 8 bits, 3 grey, 8 bits")
    assert said(advice, "Views of 64 pixels enlarge 3 of 23 images")
    assert said(advice, "Not to be decoded: 1 of 24 images, such as 'bad.jpg'")
    assert advice.settings.data.on_bad_image == "skip"
    assert not said(advice, "grey, and")


def test_grey_images_stored_in_colour_get_no_distortions_of_colour(tmp_path: Path) -> None:
    grey = {f"{i}.jpg": encode(scene(i).convert("L").convert("RGB")) for i in range(20)}
    advice = advised(write_folder(tmp_path / "grey", grey), tmp_path)
    assert said(advice, "All images are grey, and 20 of 20 are stored in colour")
    views = advice.settings.views
    assert (views.jitter_hue, views.jitter_saturation, views.grayscale_probability) == (0, 0, 0)


def test_too_few_images_and_wrong_orders_are_refused(tmp_path: Path) -> None:
    few = write_folder(tmp_path / "few", {f"{i}.jpg": encode(scene(i)) for i in range(15)})
    with pytest.raises(DataError, match="holds 15 images; pretraining needs at least 16"):
        advised(few, tmp_path)
    with pytest.raises(SettingsError, match="hours=0 must be a finite number above 0"):
        Request(train=few, hours=0)
