"""`python -m pipelines.evaluate` as a user types it, on an encoder that a run left behind."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from PIL import Image

from bt_ray.checkpoints.checkpoint import save_checkpoint
from bt_ray.config import Settings, override
from bt_ray.model.export import export_encoder
from bt_ray.model.pretrained import load_folder
from bt_ray.tracking.registry_scores import protocol_of
from bt_ray.training.launch import pretrain
from bt_ray.training.summary import Summary
from pipelines.evaluate import main
from tests.conftest import shared_zip
from tests.data.sources.test_listings import write_places
from tests.data.voc import write_voc
from tests.states import build_state


@pytest.fixture
def run_folder(small_settings: Settings, tmp_path: Path) -> Path:
    """A run's folder with a checkpoint of untrained twins."""
    state = build_state(small_settings, torch.device("cpu"))
    save_checkpoint(tmp_path / "small" / "local" / "checkpoint_0", state, small_settings)
    return tmp_path / "small"


def images(folder: Path, classes: dict[str, int], seed: int) -> Path:
    """PNG files of random levels, a folder a class."""
    generator = np.random.default_rng(seed)
    for name, count in classes.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            levels = generator.integers(0, 255, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(levels).save(folder / name / f"{seed}-{number}.png")
    return folder


def answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object
) -> tuple[int, str, str]:
    """Exit code, stdout and stderr (in one line) of the command."""
    monkeypatch.setattr(sys, "argv", ["evaluate", *map(str, arguments)])
    monkeypatch.setitem(os.environ, "COLUMNS", "300")
    capsys.readouterr()
    code = 0
    try:
        main()
    except SystemExit as end:
        code = int(end.code or 0)
    out, err = capsys.readouterr()
    return code, out, " ".join(err.split())


WAYS = (["knn"], ["linear", "--protocol", "fast", "--workers", "0"], ["linear", "--workers", "0"],
        ["semi", "--workers", "0", "--percent", "50", "--batch", "2"])  # fmt: skip


@pytest.mark.parametrize("way", WAYS, ids=lambda way: " ".join(way[:3]))
@pytest.mark.parametrize(
    ("train", "test", "sentence"),
    [
        ({"cat": 4, "dog": 4}, {"cat": 2, "eel": 2}, "only one of them has dog, eel"),
        ({"cat": 4}, {"cat": 2}, "nothing to tell apart: the images have one class, 'cat'"),
        ({"": 8}, {"": 4}, "have no label; give a folder with one subfolder a class"),
    ],
)
def test_images_that_cannot_be_learnt_from_are_refused(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], way: list[str], train: dict[str, int],
    test: dict[str, int], sentence: str,
) -> None:  # fmt: skip
    data = ("--train", images(tmp_path / "train", train, 0),
            "--test", images(tmp_path / "test", test, 1))  # fmt: skip
    storage = ("--storage", tmp_path)
    code, out, err = answer(monkeypatch, capsys, *way, run_folder, *data, *storage)
    assert (code, out) == (2, "")
    assert sentence in err


@pytest.mark.parametrize("way", WAYS, ids=lambda way: " ".join(way[:3]))
def test_test_images_among_the_training_images_are_refused(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], way: list[str],
) -> None:  # fmt: skip
    train = images(tmp_path / "train", {"cat": 4, "dog": 4}, 0)
    test = images(tmp_path / "test", {"cat": 4, "dog": 4}, 0)
    arguments = (*way, run_folder, "--train", train, "--test", test, "--storage", tmp_path)
    code, _, err = answer(monkeypatch, capsys, *arguments)
    assert code == 2
    assert "test images are among the training images, byte for byte" in err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("semi", "--percent", "0"), "--percent 0 must lie above 0"),
        (("semi", "--lists", "absent.txt"), "The list absent.txt cannot be read"),
        (("semi", "--encoder-rate", "-1"), "--encoder-rate -1.0 must be above 0"),
        (("semi", "--percent", "1", "--batch", "9"), "do not fill a batch of 9; give --batch 8"),
        (("linear", "--epochs", "0"), "--epochs must be above 0"),
        (("transfer", "places205"), "transfer places205 needs --root"),
        (("transfer", "places205", "--root", "absent"), "There is no 'absent/trainvalsplit"),
        (("transfer", "inat18", "--root", "absent"), "There is no 'absent/train2018.json'"),
        (("transfer", "voc07", "--root", "absent"), "holds no VOCdevkit/VOC2007"),
    ],
)
def test_a_wrong_word_is_answered_with_a_sentence(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], sentence: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    if arguments[0] in ("semi", "linear"):
        train = images(tmp_path / "train", {"cat": 400, "dog": 400}, 0)
        test = images(tmp_path / "test", {"cat": 2, "dog": 2}, 1)
        arguments = (*arguments, "--workers", "0", "--train", str(train), "--test", str(test))
    where = (run_folder, "--storage", tmp_path)
    code, out, err = answer(monkeypatch, capsys, *arguments, *where)
    assert (code, out) == (2, "")
    assert sentence in err


@pytest.mark.parametrize(
    ("train", "test", "sentence"),
    [
        ({"a": "cat", "b": "dog"}, {"c": "cat"}, "only one of them has dog"),
        ({"a": "cat"}, {"c": "cat"}, "nothing to tell apart: the images have one class, 'cat'"),
        ({"a": "cat", "b": "dog"}, {"c": "cat", "d": "dog"}, "1 training images are with 'cat'"),
    ],
)
def test_annotations_that_cannot_be_learnt_from_are_refused(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], train: dict[str, str], test: dict[str, str], sentence: str,
) -> None:  # fmt: skip
    splits = {
        split: {image: [(name, (1, 1, 5, 5), False)] for image, name in chosen.items()}
        for split, chosen in (("trainval", train), ("test", test))
    }
    folder = write_voc(tmp_path / "voc", splits)
    arguments = ("transfer", "voc07", run_folder, "--root", folder, "--storage", tmp_path)
    code, _, err = answer(monkeypatch, capsys, *arguments)
    assert code == 2
    assert sentence in err


def test_an_encoder_of_another_architecture_is_refused(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    checkpoint = load_folder(run_folder / "local" / "checkpoint_0")
    [exported] = export_encoder(checkpoint, tmp_path / "files", ("safetensors",))
    arguments = ("linear", exported.file, "--architecture", "resnet18", "--storage", tmp_path)
    code, _, err = answer(monkeypatch, capsys, *arguments)
    assert code == 2
    assert "does not hold a resnet18 (imagenet stem)" in err


def test_an_unknown_alias_is_refused(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    arguments = ("semi", "models:/barlow-small@champion", "--storage", tmp_path)
    code, _, err = answer(monkeypatch, capsys, *arguments)
    assert code == 2
    assert "barlow-small" in err


@pytest.mark.parametrize(("flags", "k"), [((), 9), (("--neighbors", "4"), 4)])
def test_the_record_says_which_k_was_used(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], k: int,
) -> None:  # fmt: skip
    """Of 90 training images in three classes, the square root: 9."""
    classes = {"cat": 30, "dog": 30, "eel": 30}
    train, test = (images(tmp_path / str(seed), classes, seed) for seed in (0, 1))
    where = ("--train", train, "--test", test, "--storage", tmp_path, "--no-baseline")
    code, out, err = answer(monkeypatch, capsys, "knn", run_folder, *where, *flags)
    assert code == 0, err
    record = json.loads(out)
    assert record["order"]["neighbors"] == k
    assert f"kNN (k = {k})" in err
    assert (protocol_of(record) or "").startswith(f"kNN, k={k}, temperature=0.1, train ")


def test_no_neighbors_are_refused(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = answer(monkeypatch, capsys, "knn", run_folder, "--neighbors", "0")
    assert code == 2
    assert "--neighbors 0 must be at least 1" in err


@pytest.fixture
def finished(small_settings: Settings) -> tuple[Settings, Summary]:
    settings = override(small_settings, {"scaling.workers": 0})
    return settings, pretrain(settings, register=False)


@pytest.mark.run
def test_linear_semi_and_transfer_are_logged_under_the_run(
    finished: tuple[Settings, Summary], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    settings, summary = finished
    shared_zip("bccd-voc.zip").extractall(tmp_path / "voc")
    where = (summary.paths["run"], "--storage", settings.storage)

    def evaluated(way: str, *flags: object) -> tuple[dict[str, Any], str]:
        code, out, err = answer(monkeypatch, capsys, *way.split(), *where, *flags)
        assert code == 0, err
        assert out.count("\n") == 1
        return json.loads(out), err

    few = ("--protocol", "small", "--workers", "0")
    linear, shown = evaluated("linear", *few, "--epochs", "4", "--batch", "64")
    assert "paper, Table 1" in shown
    assert "the same, untrained" in shown
    assert linear["encoder_sha256"]["before"] == linear["encoder_sha256"]["after"]
    assert linear["run_id"] == summary.run_id
    fast, _ = evaluated("linear", "--protocol", "fast", "--workers", "0", "--no-baseline")
    assert fast["scores"]["linear_fast_top1"] > 0.5

    semi, shown = evaluated("semi", *few, "--epochs", "4", "--batch", "16", "--percent", "10", "50")
    assert "paper, Table 2: supervised" in shown
    assert "from untrained weights (supervised)" in shown
    assert semi["subsets"]["10pct"]["images"] == 40
    names = shown_names(settings)
    (tmp_path / "mine.txt").write_text("\n".join(names[:40]))
    named, _ = evaluated(
        "semi", *few, "--epochs", "1", "--batch", "16", "--lists", tmp_path / "mine.txt"
    )
    assert named["subsets"]["mine"]["images"] == 40
    assert named["scores"].keys() >= {"semi_mine_top1", "semi_mine_top1_untrained"}

    voc, shown = evaluated("transfer voc07", "--root", tmp_path / "voc", "--no-baseline")
    assert "paper, Table 3" in shown
    assert [score["name"] for score in voc["classes"]["classes"]] == ["Platelets", "RBC", "WBC"]
    assert 0.3 < voc["scores"]["voc07_map_11point"] <= 1

    write_places(tmp_path / "places")
    listed = (*few[2:], "--epochs", "2", "--batch", "2", "--root", tmp_path / "places")
    places, shown = evaluated("transfer places205", *listed)
    assert "54.1%" in shown
    assert places["scores"].keys() == {"places205_top1", "places205_top1_untrained"}

    logged = MlflowClient(summary.paths["mlflow"]).get_run(summary.run_id).data.metrics
    for record in (linear, fast, semi, voc, places):
        for name, value in record["scores"].items():
            assert logged[f"eval/{name}"] == pytest.approx(value, abs=1e-4)
        assert json.loads(Path(record["paths"]["result"]).read_text())["scores"]


def shown_names(settings: Settings) -> list[str]:
    from bt_ray.data.shards.shard_set import ShardSet

    shards = ShardSet.open(settings.data.train)
    return [str(name) for name in shards.read_columns(["sample_id"])["sample_id"].to_pylist()]
