"""`python -m pipelines.evaluate detection` as a user types it."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from PIL import Image

from bt_ray.checkpoints.checkpoint import save_checkpoint
from bt_ray.config import Settings, override
from bt_ray.detection import protocols
from bt_ray.detection.protocols import DetectionProtocol
from bt_ray.model.export import export_encoder
from bt_ray.model.pretrained import load_folder
from bt_ray.report.page import build_page
from bt_ray.report.record import find_run
from bt_ray.tracking.mlflow import start_run
from bt_ray.tracking.mlflow_record import record_run
from bt_ray.tracking.registry_scores import protocol_of
from pipelines.evaluate import main
from pipelines.evaluations.detection_order import (
    CocoDetectionOrder,
    CocoLayoutOrder,
    DetectorOrder,
    VocDetectionOrder,
    VocLayoutOrder,
)
from tests.detection.layouts import coco_tree, write_coco, write_voc_folder
from tests.detection.small import ENCODER
from tests.states import build_state

Answer = Callable[..., tuple[int, str, str]]
TINY = (
    "--workers", 0, "--accelerator", "cpu", "--backbone", "c4", "--steps", 2, "--batch", 2,
    "--short-px", 32, "--test-short-px", 32, "--longest-px", 64,
)  # fmt: skip
HERE = Path("somewhere")


@pytest.fixture
def settings(small_settings: Settings) -> Settings:
    """Of a run that a ResNet was trained by."""
    changes = {"model.encoder": ENCODER, "views.image_px": 32, "scaling.workers": 0}
    return override(small_settings, changes)


@pytest.fixture
def run_folder(settings: Settings, tmp_path: Path) -> Path:
    """A run's folder with a checkpoint of untrained twins, whose run MLflow knows."""
    folder = tmp_path / settings.name
    state = build_state(settings, torch.device("cpu"))
    save_checkpoint(folder / "local" / "checkpoint_0", state, settings)
    return folder


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Answer:
    """Exit code, stdout and stderr (in one line) of the command with these words."""

    def asked(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["evaluate", "detection", *map(str, words)])
        monkeypatch.setitem(os.environ, "COLUMNS", "300")
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capsys.readouterr()
        return code, out, " ".join(err.split())

    return asked


def voc_folder(folder: Path, num_train: int = 4, num_test: int = 3) -> Path:
    for split, count, left in (("train", num_train, 4), ("test", num_test, 8)):
        images = {
            f"{split}{number}": (
                (48, 32 + number),
                [("cat" if number % 2 else "dog", (left, 6, left + 20, 26))],
            )
            for number in range(count)
        }
        write_voc_folder(folder, images, split)
    return folder


def test_options_change_the_schedule_that_they_name() -> None:
    voc = VocDetectionOrder(encoder="e", root=HERE)
    assert voc.protocol == protocols.VOC
    coco = CocoDetectionOrder(encoder="e", root=HERE)
    assert coco.protocol == protocols.COCO
    assert not CocoDetectionOrder(encoder="e", root=HERE, masks=False).protocol.masks
    small = VocLayoutOrder(encoder="e", root=HERE)
    assert small.protocol == protocols.SMALL
    assert VocLayoutOrder(encoder="e", root=HERE, schedule="published").protocol == protocols.VOC
    four = {name: HERE for part in ("train", "test") for name in (f"{part}_annotations",
                                                                    f"{part}_images")}  # fmt: skip
    assert not CocoLayoutOrder(encoder="e", **four).protocol.masks
    given = VocDetectionOrder(
        encoder="e", root=HERE, steps=2400, rate=0.5, falls=(7,), backbone="fpn", batch=3,
        weight_decay=0.0, score_every=9, short_px=(5, 6), test_short_px=7, longest_px=8,
    ).protocol  # fmt: skip
    assert given == DetectionProtocol(
        backbone="fpn", steps=2400, rate=0.5, falls=(7,), warmup_steps=100, batch=3,
        weight_decay=0.0, score_every=9,
        scaling=protocols.SceneScaling(short_px=(5, 6), test_short_px=7, longest_px=8),
    )  # fmt: skip


@pytest.mark.parametrize(
    "order",
    [VocDetectionOrder, CocoDetectionOrder, VocLayoutOrder, CocoLayoutOrder],
    ids=lambda order: order.name,
)
def test_every_data_set_is_described(order: type[DetectorOrder], answer: Answer) -> None:
    word = {"voc0712": "voc07+12"}.get(order.name, order.name)
    code, out, err = answer(word, "--help")
    assert code == 0
    for option in ("--supervised", "--schedule", "--short-px", "--seeds", "--no-baseline"):
        assert option in out + err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("voc07+12", "--root", "absent"), "holds no VOCdevkit"),
        (("coco", "--root", "absent"), "instances_train2017.json"),
        (("voc-layout", "--root", "absent"), "holds no list with ImageSets/Main/train.txt"),
        (("voc-layout", "--root", "voc", "--test-split", "val"), "ImageSets/Main/val.txt"),
        (("voc-layout", "--root", "voc", "--test-split", "train"), "among the training images"),
        (("voc-layout", "--root", "voc"), "4 training images do not fill a batch of 8; give --ba"),
        (("voc-layout", "--root", "voc", "--seeds", "0"), "--seeds 0 must be at least 1"),
        (("voc-layout", "--root", "voc", "--steps", "0"), "--steps must be above 0"),
        (("voc-layout", "--root", "voc", "--short-px", "0"), "--short-px must be above 0 pixels"),
        (("voc-layout", "--root", "voc", "--workers", "3"), "divisible by scaling.workers=3"),
        (("voc-layout", "--root", "voc", "--supervised", "absent"), "'absent' is no encoder"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, tuple) else "",
)
def test_a_wrong_word_is_answered_with_a_sentence(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Answer,
    words: tuple[str, ...], sentence: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    voc_folder(tmp_path / "voc")
    batch = 4 if "--workers" in words else 8
    usual = ("--storage", tmp_path, "--batch", batch, "--no-baseline")
    code, out, err = answer(words[0], run_folder, *usual, *words[1:])
    assert (code, out) == (2, "")
    assert sentence in err


def test_an_encoder_that_is_no_resnet_is_refused(
    small_settings: Settings, tmp_path: Path, answer: Answer
) -> None:
    state = build_state(small_settings, torch.device("cpu"))
    save_checkpoint(tmp_path / "small" / "local" / "checkpoint_0", state, small_settings)
    root = voc_folder(tmp_path / "voc")
    words = ("voc-layout", tmp_path / "small", "--root", root, "--storage", tmp_path)
    code, _, err = answer(*words)
    assert code == 2
    assert "Detection fine-tunes a ResNet" in err


def test_masks_that_are_not_there_are_refused(
    run_folder: Path, tmp_path: Path, answer: Answer
) -> None:
    tree = coco_tree()
    for entry in tree["annotations"]:
        del entry["segmentation"]
    file, images = write_coco(tmp_path / "coco", tree)
    places = ("--train-annotations", file, "--train-images", images,
              "--test-annotations", file, "--test-images", images)  # fmt: skip
    words = ("coco-layout", run_folder, *places, "--masks", "--storage", tmp_path)
    code, _, err = answer(*words)
    assert code == 2
    assert "mask" in err


@pytest.mark.run
def test_detectors_of_all_encoders_and_seeds_are_in_table_record_run_and_report(
    settings: Settings, run_folder: Path, tmp_path: Path, answer: Answer
) -> None:
    run, _ = start_run(settings)
    record_run(run_folder, run)
    (run_folder / "settings.json").write_text(
        (run_folder / "local" / "checkpoint_0" / "settings.json").read_text()
    )
    checkpoint = load_folder(run_folder / "local" / "checkpoint_0")
    [exported] = export_encoder(checkpoint, tmp_path / "files", ("safetensors",))
    root = voc_folder(tmp_path / "voc")
    words = ("voc-layout", run_folder, "--root", root, "--storage", tmp_path, *TINY,
             "--seeds", 2, "--supervised", exported.file)  # fmt: skip
    code, out, err = answer(*words)
    assert code == 0, err
    record: dict[str, Any] = json.loads(out)
    name = "detection_voc_layout"
    for suffix in ("", "_untrained", "_supervised"):
        for measure in ("ap", "ap50", "ap75", "voc_ap50", "voc07_ap50"):
            score = f"{name}_{measure}{suffix}"
            values = record["by_seed"][score]
            assert len(values) == 2
            assert record["scores"][score] == pytest.approx(np.mean(values), abs=2e-5)
            assert record["deviations"][score] == pytest.approx(np.std(values, ddof=1), abs=2e-5)
        for curve in record["curves"][suffix.removeprefix("_")]["ap"]:
            assert [step for step, _ in curve] == [1, 2]
    # These are the same weights, which the same seeds train to the same detectors.
    for score, values in record["by_seed"].items():
        if score.endswith("_supervised"):
            assert values == record["by_seed"][score.removesuffix("_supervised")]
    for row in ("this encoder", "the same, before pretraining", f"supervised: {exported.file}",
                "paper, Table 4, VOC07+12: Barlow Twins"):  # fmt: skip
        assert row in err
    assert "82.6%" in err
    assert f"{record['scores'][f'{name}_voc07_ap']:.2%} ± " in err
    assert len(set(record["checkpoints"].values())) == 6
    _check_kept(record, tmp_path, run_folder, run.run_id)


def _check_kept(record: dict[str, Any], storage: Path, run_folder: Path, run_id: str) -> None:
    """Record and figure are in the storage, with the MLflow run, and in the run's report."""
    kept = Path(record["paths"]["result"])
    assert json.loads(kept.read_text())["scores"] == record["scores"]
    with Image.open(kept.parent / "figures" / f"{kept.stem}.png") as figure:
        assert figure.width > 800
    client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
    logged = client.get_run(run_id).data.metrics
    for score, value in record["scores"].items():
        assert logged[f"eval/{score}"] == pytest.approx(value, abs=1e-4)
    files = [file.path for file in client.list_artifacts(run_id, "evaluations")]
    assert f"evaluations/{kept.name}" in files
    assert "evaluations/figures" in files
    assert (protocol_of(record) or "").startswith("detection-voc-layout, ")
    assert "supervised" not in (protocol_of(record) or "")
    html = build_page([find_run(str(run_folder), str(storage))]).html
    assert "detection-voc-layout: AP50 over the steps" in html
    assert "small, before pretraining (2 seeds)" in html
    shares = [100 * record[part]["detection_voc_layout_ap50"] for part in ("scores", "deviations")]
    assert f"{shares[0]:.1f} ± {shares[1]:.1f} %" in html


@pytest.mark.run
def test_masks_are_learnt_and_scored(run_folder: Path, tmp_path: Path, answer: Answer) -> None:
    parts: list[object] = []
    for part in ("train", "test"):
        tree = coco_tree()
        if part == "test":
            tree["images"] = tree["images"][1:2]
            tree["annotations"] = tree["annotations"][1:2]
        file, images = write_coco(tmp_path / part, tree)
        parts += [f"--{part}-annotations", file, f"--{part}-images", images]
    words = ("coco-layout", run_folder, *parts, "--masks", "--storage", tmp_path, *TINY,
             "--no-baseline", "--most-shared", 1)  # fmt: skip
    code, out, err = answer(*words)
    assert code == 0, err
    record = json.loads(out)
    assert record["scores"].keys() >= {
        f"detection_coco_layout_{name}" for name in ("ap", "ap50", "mask_ap", "mask_ap50")
    }
    assert record["data"]["train"]["classes"] == ["car", "zebra"]
    assert record["data"]["train"]["images"] == 2, "one has no object"
    assert "AP of masks" in err
    assert "paper, Table 4, COCO: Barlow Twins" in err
