"""Torchvision's data sets, read from the files that torchvision itself reads."""

import hashlib
import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bt_ray.data.sources import open_source
from bt_ray.errors import DataError
from tests.conftest import shared_zip
from tests.data.pictures import encoded, write_folder


def cifar10(root: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """CIFAR-10's files with two images each, and their checksums where torchvision looks."""
    from torchvision.datasets import CIFAR10

    folder = root / CIFAR10.base_folder
    folder.mkdir(parents=True)
    levels = np.random.default_rng(0).integers(0, 256, (12, 3072), dtype=np.uint8)
    names = [*(name for name, _ in CIFAR10.train_list), *(name for name, _ in CIFAR10.test_list)]
    sums = []
    for i, name in enumerate(names):
        content = pickle.dumps({"data": levels[2 * i : 2 * i + 2], "labels": [i, 9 - i]})
        (folder / name).write_bytes(content)
        sums.append([name, hashlib.md5(content).hexdigest()])
    meta = pickle.dumps({"label_names": [f"c{i}" for i in range(10)][::-1]})
    (folder / "batches.meta").write_bytes(meta)
    monkeypatch.setattr(CIFAR10, "train_list", sums[:5])
    monkeypatch.setattr(CIFAR10, "test_list", sums[5:])
    monkeypatch.setattr(CIFAR10, "meta", {
        "filename": "batches.meta", "key": "label_names", "md5": hashlib.md5(meta).hexdigest(),
    })  # fmt: skip
    return levels.reshape(12, 3, 32, 32).transpose(0, 2, 3, 1)


def test_pictures_become_png_without_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CIFAR-10 from its own batch files: every level of every image, and its label, come back."""
    levels = cifar10(tmp_path, monkeypatch)
    train = open_source(f"torchvision:CIFAR10:{tmp_path}:train")
    test = open_source(f"torchvision:CIFAR10:{tmp_path}:test")
    assert train.identity != test.identity
    assert (len(train), len(test)) == (10, 2)
    assert train.classes == tuple(f"c{9 - i}" for i in range(10))
    for image in train.read():
        number = int(image.sample_id)
        picture = Image.open(io.BytesIO(image.encoded))
        assert picture.format == "PNG"
        assert np.array_equal(np.asarray(picture), levels[number])
        assert image.label == (number // 2 if number % 2 == 0 else 9 - number // 2)
    for image in test.read():
        picture = np.asarray(Image.open(io.BytesIO(image.encoded)))
        assert np.array_equal(picture, levels[10 + int(image.sample_id)])
    assert len(open_source(f"torchvision:CIFAR10:{tmp_path}")) == 10  # train, if nothing is said


def test_files_keep_their_bytes(tmp_path: Path) -> None:
    told = {f"{name}/{i}.jpg": encoded(i) for i, name in enumerate(["dog", "cat", "dog"])}
    write_folder(tmp_path, told)
    source = open_source(f"torchvision:ImageFolder:{tmp_path}")
    assert source.classes == ("cat", "dog")
    assert {i.sample_id: (i.encoded, i.class_name) for i in source.read()} == {
        name: (content, name.partition("/")[0]) for name, content in told.items()
    }


def test_real_voc_keeps_its_bytes_and_has_no_labels(tmp_path: Path) -> None:
    """Annotations are no labels; the class's own arguments choose the year and the split."""
    archive = shared_zip("bccd-voc.zip")
    archive.extractall(tmp_path)
    source = open_source(f"torchvision:VOCDetection:{tmp_path}:train:year=2007")
    listed = (tmp_path / "VOCdevkit/VOC2007/ImageSets/Main/train.txt").read_text().split()
    found = {image.sample_id: image for image in source.read()}
    assert sorted(found) == [f"VOCdevkit/VOC2007/JPEGImages/{name}.jpg" for name in sorted(listed)]
    assert source.classes == ()
    for name, image in found.items():
        assert image.encoded == (tmp_path / name).read_bytes()
        assert image.label is None


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("torchvision:CIFAR10", "must be torchvision:CLASS:ROOT"),
        ("torchvision:CIFAR11:/x", "no data set 'CIFAR11'"),
        ("torchvision:CIFAR10:/x/y:train", "nothing is downloaded"),
        ("torchvision:CIFAR10:/x/y:validation", "must be train or test"),
        ("torchvision:ImageFolder:/x/y:train", "takes no 'split'"),
        ("torchvision:VOCDetection:/x/y:train:colour=red", "takes no 'colour'"),
    ],
)
def test_a_name_that_leads_nowhere_is_refused(name: str, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        open_source(name)
