"""Segmentation of real files by a frozen encoder, as a function and as a user types it."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from bt_ray.checkpoints.checkpoint import save_checkpoint
from bt_ray.config import Settings, override
from bt_ray.errors import CheckpointError, DataError, SettingsError
from bt_ray.model.encoder import build_encoder
from bt_ray.model.pretrained import Pretrained
from bt_ray.model.weights import fingerprint
from bt_ray.segmentation import evaluate as module
from bt_ray.segmentation.evaluate import SegmentationData, score_segmentation
from bt_ray.segmentation.head import LinearProtocol
from bt_ray.segmentation.layouts import read_folders
from pipelines.evaluate import main
from tests.segmentation.files import draw, write_folders, write_voc
from tests.states import build_state

CPU = torch.device("cpu")
CLASSES = ("ground", "red", "blue")


@pytest.fixture
def pretrained(small_settings: Settings) -> Pretrained:
    settings = override(small_settings, {"views.image_px": 32, "model.encoder": "conv4"})
    torch.manual_seed(0)
    return Pretrained(build_encoder(settings).eval(), settings)


@pytest.fixture
def data(tmp_path: Path) -> SegmentationData:
    train = read_folders(*write_folders(tmp_path / "train", range(24)))
    test = read_folders(*write_folders(tmp_path / "test", range(24, 32), mode="L"))
    return SegmentationData(train, test, CLASSES, 32)


@pytest.mark.run
def test_boxes_of_two_colours_are_found(pretrained: Pretrained, data: SegmentationData) -> None:
    """Far better than to call every pixel ground; the encoder stays as it was."""
    before, told = fingerprint(pretrained.encoder), list[str]()
    protocol = LinearProtocol(epochs=10, batch=8, rate=0.02)
    found = score_segmentation(pretrained, data, protocol, CPU, told.append)
    masks = [draw(seed)[1] for seed in range(24, 32)]
    ground = sum((mask == 0).sum() for mask in masks) / sum((mask != 255).sum() for mask in masks)
    assert found.pixel_accuracy > ground + 0.1
    assert found.mean_iou > 0.6 > ground / 3
    assert set(found.iou) == set(CLASSES)
    assert fingerprint(pretrained.encoder) == before
    assert told[0] == "16 of 24 training images encoded"
    assert told[-1] == "8 of 8 test images scored"
    again = score_segmentation(pretrained, data, protocol, CPU)
    assert again == found


def test_images_in_both_sets_are_refused(data: SegmentationData, pretrained: Pretrained) -> None:
    settings = pretrained.settings.data
    data.check(settings, most_shared=0)
    same = SegmentationData(data.train, data.train, CLASSES, 32)
    with pytest.raises(DataError, match="24 of 24 test images are among the training images"):
        same.check(settings, most_shared=23)
    with pytest.raises(DataError, match="one class, 'ground'"):
        SegmentationData(data.train, data.test, CLASSES[:1], 32).check(settings, most_shared=0)


def test_features_that_do_not_fit_into_memory_are_refused(
    pretrained: Pretrained, data: SegmentationData, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Memory:
        available = 1e6  # 24 images take 256 · 8 · 8 · 4 bytes each

    monkeypatch.setattr(module.psutil, "virtual_memory", Memory)
    with pytest.raises(DataError, match=r"24 images, 256×8×8 each, take 0\.0 GiB"):
        score_segmentation(pretrained, data, LinearProtocol(), CPU)


def test_one_cell_is_no_grid(data: SegmentationData, small_settings: Settings) -> None:
    settings = override(small_settings, {"views.image_px": 32, "model.encoder": "resnet18"})
    pretrained = Pretrained(build_encoder(settings).eval(), settings)
    with pytest.raises(SettingsError, match="one cell for an image of 32×32 pixels"):
        score_segmentation(pretrained, data, LinearProtocol(), CPU)


def test_an_encoder_that_changes_is_refused(
    pretrained: Pretrained, data: SegmentationData, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_head = module.train_head

    def change(*arguments: Any) -> Any:
        with torch.no_grad():
            next(iter(pretrained.encoder.parameters())).add_(1e-3)
        return train_head(*arguments)

    monkeypatch.setattr(module, "train_head", change)
    with pytest.raises(CheckpointError, match="must be frozen"):
        score_segmentation(pretrained, data, LinearProtocol(epochs=1), CPU)


def answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object
) -> tuple[int, str, str]:
    """Exit code, stdout and stderr (in one line) of the command."""
    monkeypatch.setattr(sys, "argv", ["evaluate", "segmentation", *map(str, arguments)])
    monkeypatch.setitem(os.environ, "COLUMNS", "300")
    capsys.readouterr()
    code = 0
    try:
        main()
    except SystemExit as end:
        code = int(end.code or 0)
    out, err = capsys.readouterr()
    return code, out, " ".join(err.split())


@pytest.fixture
def run_folder(small_settings: Settings, tmp_path: Path) -> Path:
    """A run's folder with a checkpoint of twins."""
    state = build_state(small_settings, CPU)
    save_checkpoint(tmp_path / "small" / "local" / "checkpoint_0", state, small_settings)
    return tmp_path / "small"


@pytest.mark.run
@pytest.mark.parametrize("layout", ["voc", "folders"])
def test_the_command(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], layout: str,
) -> None:  # fmt: skip
    if layout == "voc":
        write_voc(tmp_path / "voc", {"train": range(6), "val": range(6, 9)})
        where: tuple[object, ...] = ("--root", tmp_path / "voc")
    else:
        train = write_folders(tmp_path / "train", range(6))
        test = write_folders(tmp_path / "test", range(6, 9))
        where = ("--train-images", train[0], "--train-masks", train[1],
                 "--test-images", test[0], "--test-masks", test[1])  # fmt: skip
    options = ("--resize-px", 32, "--epochs", 2, "--storage", tmp_path)
    code, out, _ = answer(monkeypatch, capsys, run_folder, *where, *options)
    assert code == 0
    record = json.loads(out.splitlines()[-1])
    names = ("segmentation_miou", "segmentation_pixel_accuracy")
    assert record["scores"].keys() == {f"{n}{s}" for n in names for s in ("", "_untrained")}
    assert all(0 <= share <= 1 for share in record["scores"].values())
    assert record["resize_px"] == 32
    assert (record["data"]["train"]["images"], record["data"]["test"]["images"]) == (6, 3)
    assert len(record["iou"]["iou"]) == (21 if layout == "voc" else 3)
    kept = json.loads(Path(record["paths"]["result"]).read_text())
    assert kept["scores"] == record["scores"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "needs either --root, the folder that VOC was unpacked in, or all of --train-images"),
        (("--root", "voc", "--test-masks", "m"), "needs either --root"),
        (("--root", "absent"), "absent holds no VOCdevkit/VOC2012/ImageSets/Segmentation/train"),
        (("--root", "voc", "--test-split", "no"), "ImageSets/Segmentation/no.txt"),
        (("--root", "voc", "--epochs", "0"), "--epochs 0 must be above 0"),
        (("--root", "voc", "--classes", "ground", "red"), "has the index 2, and there are 2"),
        (("--root", "voc", "--test-split", "train"), "test images are among the training images"),
    ],
)
def test_a_wrong_word_is_answered_with_a_sentence(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], sentence: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    write_voc(tmp_path / "voc", {"train": range(2), "val": range(2, 4)})
    code, out, err = answer(monkeypatch, capsys, run_folder, *arguments, "--storage", tmp_path)
    assert (code, out) == (2, "")
    assert sentence in err
