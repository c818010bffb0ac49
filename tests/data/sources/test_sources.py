"""Folders as users have them, and CIFAR-10 by name."""

import logging
from pathlib import Path

import pytest
from PIL import Image

from bt_ray.data.sources import open_source
from bt_ray.errors import DataError


def write_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path)


def test_splits_are_not_taken_for_classes(tmp_path: Path) -> None:
    for name in ("train/cat/a.png", "val/cat/b.png"):
        write_image(tmp_path / name)
    with pytest.raises(DataError, match=f"--data.train {tmp_path}/train --data.test {tmp_path}/va"):
        open_source(str(tmp_path))
    write_image(tmp_path / "other" / "c.png")
    with pytest.raises(DataError, match="splits of a data set"):
        open_source(str(tmp_path))


def test_a_class_without_images_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_image(tmp_path / "cat" / "a.png")
    (tmp_path / "dog").mkdir()
    with caplog.at_level(logging.WARNING):
        assert open_source(str(tmp_path)).classes == ("cat",)
    assert f"{tmp_path}/dog: the class is left out" in caplog.text


def test_cifar10_comes_as_png_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Fake:
        classes = ("plane", "bird")

        def __init__(self, root: str, *, train: bool, download: bool) -> None:
            self.num = 4 if train else 2

        def __getitem__(self, i: int) -> tuple[Image.Image, int]:
            if i >= self.num:
                raise IndexError
            return Image.new("RGB", (32, 32), (i, 7, 9)), i % 2

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("torchvision.datasets.CIFAR10", Fake)
    train, test = open_source("cifar10"), open_source("cifar10:test")
    assert (len(train), len(test)) == (4, 2)
    assert train.classes == test.classes == ("bird", "plane")
    assert {image.sample_id: image.label for image in train.read()}["plane/00002.png"] == 1
    file = tmp_path / "cache" / "bt_ray" / "cifar10" / "train" / "plane" / "00002.png"
    assert Image.open(file).getpixel((3, 3)) == (2, 7, 9)


def test_no_network_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("torchvision.datasets.CIFAR10.url", "http://127.0.0.1:9/cifar.tar.gz")
    with pytest.raises(DataError, match=r"cannot be downloaded .*give a folder"):
        open_source("cifar10")
    assert not (tmp_path / "bt_ray" / "cifar10" / "train").exists()
