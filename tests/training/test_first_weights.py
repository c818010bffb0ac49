"""A run keeps what it started from: its source is needed no more, and evaluations find it."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
import torchvision
from mlflow import MlflowClient
from safetensors.torch import load_file, save_file
from torch import nn

from bt_ray.checkpoints.checkpoint import last_checkpoint
from bt_ray.checkpoints.manifest import sha256
from bt_ray.checkpoints.start import SOURCE, START, untrained
from bt_ray.config import SETTINGS_FILE, Settings, override, read_settings
from bt_ray.errors import BtRayError, CheckpointError, RunFailedError, SettingsError
from bt_ray.evaluation.encoder import open_encoder
from bt_ray.model import published
from bt_ray.model.encoder import build_encoder
from bt_ray.model.weights import ENCODER, fingerprint
from bt_ray.tracking.mlflow_record import recorded_run
from bt_ray.tracking.registry_facts import RunFacts
from bt_ray.training import first_weights
from bt_ray.training.first_weights import find_first_weights, settle_start
from bt_ray.training.launch import pretrain


@pytest.fixture
def settings(small_settings: Settings) -> Settings:
    changes = {"scaling.workers": 0, "schedule.epochs": 1, "training.probe_every_epochs": 1}
    return override(small_settings, changes)


@pytest.fixture
def file(settings: Settings, tmp_path: Path) -> Path:
    """Weights of the settings' encoder, other than those that its seed draws."""
    place = tmp_path / "elsewhere" / "weights.safetensors"
    place.parent.mkdir()
    torch.manual_seed(77)
    save_file(build_encoder(settings).state_dict(), place)
    return place


def folder_of_run(settings: Settings) -> Path:
    return Path(settings.storage) / settings.name


def encoder_of(file: Path, settings: Settings) -> nn.Module:
    encoder = build_encoder(settings)
    encoder.load_state_dict(load_file(file))
    return encoder


def test_a_run_starts_from_a_file_and_keeps_it(settings: Settings, file: Path) -> None:
    """Its probe before the first step is of those weights; so is the baseline of evaluations."""
    started = override(settings, {"model.start_from": str(file)})
    digest, wanted = sha256(file), encoder_of(file, settings)
    pretrain(started, register=False)
    shutil.rmtree(file.parent)

    run_folder = folder_of_run(settings)
    kept = read_settings(run_folder / SETTINGS_FILE).model
    assert (kept.start_from, kept.start_sha256) == (str(file), digest)
    source = json.loads((run_folder / START / SOURCE).read_text())
    assert source == {"start_from": str(file), "start_sha256": digest, "notes": []}
    run = recorded_run(run_folder)
    assert run is not None
    facts = RunFacts(MlflowClient(run.uri), run.run_id)
    assert facts.tag("start_sha256") == digest
    assert facts.param("model.start_from") == str(file)

    opened, _ = open_encoder(str(run_folder), settings)
    assert fingerprint(untrained(opened).encoder) == fingerprint(wanted)
    assert fingerprint(opened.encoder) != fingerprint(wanted)


def test_the_first_probe_is_of_the_weights_that_it_started_from(
    settings: Settings, file: Path
) -> None:
    drawn = pretrain(settings, register=False).scores["rankme_untrained"]
    began = override(settings, {"model.start_from": str(file), "name": "began"})
    assert pretrain(began, register=False).scores["rankme_untrained"] != drawn


def test_a_run_goes_on_without_the_source(settings: Settings, file: Path) -> None:
    """Also where no checkpoint was written yet: what it keeps is read, and not the source."""
    started = override(settings, {"model.start_from": str(file)})
    settled = settle_start(started)
    file.write_bytes(b"another file by now")
    assert settle_start(started) == settled
    assert pretrain(started, register=False).steps == 2
    file.unlink()
    assert pretrain(started, register=False).steps == 2


def test_another_start_is_another_run(settings: Settings, file: Path) -> None:
    started = override(settings, {"model.start_from": str(file)})
    pretrain(started, register=False)
    for other in ("timm:resnet18.a1_in1k", "hf:a/b", str(file.with_name("other.pth")), None):
        with pytest.raises(SettingsError, match=r"with other settings \(model\.start_from\)"):
            pretrain(override(started, {"model.start_from": other}), register=False)
    copied = file.with_name("copied.safetensors")
    copied.write_bytes(file.read_bytes())
    assert pretrain(override(started, {"model.start_from": str(copied)}), register=False).steps == 2


def test_weights_must_have_the_sum_that_is_asked_for(settings: Settings, file: Path) -> None:
    named = {"model.start_from": str(file), "model.start_sha256": "0" * 64}
    with pytest.raises(CheckpointError, match=r"has the SHA-256 [0-9a-f]{64}, and .*=0{64} is"):
        pretrain(override(settings, named), register=False)
    named["model.start_sha256"] = sha256(file)
    assert pretrain(override(settings, named), register=False).steps == 2
    with pytest.raises(SettingsError, match=r"model\.start_from names; give that, too"):
        override(settings, {"model.start_sha256": "0" * 64})


def test_a_run_that_lost_its_start_has_no_baseline(settings: Settings, file: Path) -> None:
    pretrain(override(settings, {"model.start_from": str(file)}), register=False)
    folder = folder_of_run(settings)
    opened, _ = open_encoder(str(folder), settings)
    content = bytearray((folder / START / ENCODER).read_bytes())
    content[-1] ^= 1
    (folder / START / ENCODER).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{ENCODER} in checkpoint .* was altered"):
        untrained(opened)
    shutil.rmtree(folder / START)
    with pytest.raises(CheckpointError, match=r"started from model\.start_from=.*bring that back"):
        untrained(opened)


def test_a_registered_version_is_a_start_and_has_a_baseline(settings: Settings, file: Path) -> None:
    first = override(settings, {"model.start_from": str(file), "name": "first"})
    summary = pretrain(first)
    reference = f"models:/{summary.model_version}"
    opened, _ = open_encoder(reference, settings)
    wanted = encoder_of(file, settings)
    assert fingerprint(untrained(opened).encoder) == fingerprint(wanted)
    for name, words in (("second", reference), ("third", f"runs:/{summary.run_id}")):
        other = override(settings, {"model.start_from": words, "name": name})
        settle_start(other)
        kept = Path(other.storage) / name / START / ENCODER
        assert fingerprint(encoder_of(kept, other)) == fingerprint(opened.encoder)


def test_published_weights_are_fitted_and_told(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    torch.manual_seed(5)
    theirs = torchvision.models.resnet18(num_classes=10).state_dict()
    torch.save(theirs, tmp_path / "downloaded.pth")
    monkeypatch.setattr(first_weights, "fetch_weights", lambda name: tmp_path / "downloaded.pth")
    words = "torchvision:ResNet18_Weights.IMAGENET1K_V1"
    changes = {"model.start_from": words, "model.encoder": "resnet18", "data.channels": 1}
    with caplog.at_level(logging.WARNING):
        settled = settle_start(override(settings, changes))
    assert [record.getMessage() for record in caplog.records] == [
        f"model.start_from={words}: its last layers were left out: fc.weight, fc.bias.",
        f"model.start_from={words}: conv1.weight (64, 3, 7, 7) was adapted to (64, 1, 7, 7).",
    ]
    kept = load_file(folder_of_run(settings) / START / ENCODER)
    torch.testing.assert_close(kept["conv1.weight"], theirs["conv1.weight"].sum(1, keepdim=True))
    assert settled.model.start_sha256 == sha256(tmp_path / "downloaded.pth")


def test_other_statistics_than_timms_are_told(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    changes = {
        "model.encoder": "timm:vit_tiny_patch16_224", "views.image_px": 32,
        "model.start_from": "timm:vit_tiny_patch16_224",
    }  # fmt: skip
    chosen = override(settings, changes)
    save_file(build_encoder(chosen).state_dict(), tmp_path / "vit.safetensors")
    monkeypatch.setattr(first_weights, "fetch_weights", lambda name: tmp_path / "vit.safetensors")
    with caplog.at_level(logging.WARNING):
        find_first_weights(override(chosen, {"data.mean": [0.5] * 3, "data.std": [0.5] * 3}))
        assert not caplog.records
        find_first_weights(chosen)
    assert "--data.mean 0.5 0.5 0.5 --data.std 0.5 0.5 0.5" in caplog.text


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("{folder}/text.pth", "text.pth cannot be read as a state dict"),
        ("{folder}/list.pth", "list.pth holds no state dict"),
        ("{folder}/other.pth", r"other\.pth does not hold a conv4 .*: it lacks 0\.weight"),
        ("{folder}/missing.pth", "is no checkpoint, no run's folder .* and no file of weights"),
        ("timm:no_such_net", "has no weights of that name"),
        ("models:/nobody/1", "nobody"),
    ],
)
def test_what_cannot_be_started_from_is_said_before_anything_is_trained(
    settings: Settings, tmp_path: Path, words: str, sentence: str
) -> None:
    (tmp_path / "text.pth").write_text("no weights")
    torch.save([torch.zeros(2)], tmp_path / "list.pth")
    torch.save({"conv1.weight": torch.zeros(2)}, tmp_path / "other.pth")
    started = override(settings, {"model.start_from": words.format(folder=tmp_path)})
    with pytest.raises(BtRayError, match=sentence) as told:
        pretrain(started, register=False)
    assert "\n" not in str(told.value)
    assert not (folder_of_run(settings) / SETTINGS_FILE).exists()


def test_without_a_network_nothing_is_trained(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no route to the host")

    monkeypatch.setattr(published.torch.hub, "download_url_to_file", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    started = override(settings, {"model.start_from": "torchvision:resnet18"})
    with pytest.raises(CheckpointError, match=r"failed \(no route to the host\)\. Fill that cache"):
        pretrain(started, register=False)


def test_a_full_disk_is_named(
    settings: Settings, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(first_weights, "keep_start", refuse)
    with pytest.raises(RunFailedError, match=r"cannot be written to .*start \(No space left"):
        settle_start(override(settings, {"model.start_from": str(file)}))


def test_a_run_of_an_earlier_version_goes_on(settings: Settings, file: Path) -> None:
    """It kept no start, and has a checkpoint."""
    started = override(settings, {"model.start_from": str(file)})
    pretrain(started, register=False)
    shutil.rmtree(folder_of_run(settings) / START)
    file.unlink()
    assert pretrain(started, register=False).steps == 2
    assert last_checkpoint(folder_of_run(settings))[1] == 2
