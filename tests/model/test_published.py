"""Published weights come from the libraries' caches; without a network a sentence says so."""

import urllib.error
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants

from bt_ray.errors import CheckpointError, LaunchError
from bt_ray.model.published import architecture_of, fetch_weights, is_place, statistics_of

COMMIT = "a" * 40


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty ones, and no network."""

    def refuse(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no route to the host")

    def refuse_hub(*_: object, **__: object) -> None:
        raise huggingface_hub.errors.LocalEntryNotFoundError("no route to the hub")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse_hub)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


def put_into_hub(caches: Path, repository: str, file: str) -> Path:
    """A file in the hub's cache, as a download leaves it."""
    folder = caches / "hub" / f"models--{repository.replace('/', '--')}"
    place = folder / "snapshots" / COMMIT / file
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(b"weights")
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / "main").write_text(COMMIT)
    return place


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_a_repository_is_found_in_the_hubs_cache(caches: Path, file: str) -> None:
    place = put_into_hub(caches, "somebody/net", file)
    assert fetch_weights("hf:somebody/net") == place
    assert fetch_weights(f"hf:somebody/net@{COMMIT}") == place


def test_safetensors_come_first(caches: Path) -> None:
    put_into_hub(caches, "somebody/net", "pytorch_model.bin")
    wanted = put_into_hub(caches, "somebody/net", "model.safetensors")
    assert fetch_weights("hf:somebody/net") == wanted


def test_timms_weights_are_found_in_the_hubs_cache(caches: Path) -> None:
    wanted = put_into_hub(caches, "timm/resnet18.a1_in1k", "model.safetensors")
    assert fetch_weights("timm:resnet18.a1_in1k") == wanted
    assert fetch_weights("timm:resnet18") == wanted, "its default weights"


@pytest.mark.parametrize("name", ["ResNet18_Weights.IMAGENET1K_V1", "resnet18"])
def test_torchvisions_weights_are_found_in_torchs_cache(caches: Path, name: str) -> None:
    wanted = caches / "torch" / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    wanted.parent.mkdir(parents=True)
    wanted.write_bytes(b"weights")
    assert fetch_weights(f"torchvision:{name}") == wanted


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("hf:somebody/net", "somebody/net from the Hugging Face hub to .*hub"),
        ("hf:no body/net", "no body/net from the Hugging Face hub"),
        ("timm:resnet18.a1_in1k", "timm/resnet18.a1_in1k from the Hugging Face hub to .*hub"),
        ("torchvision:resnet18", "https://download.*resnet18-f37072fd.pth to .*checkpoints"),
    ],
)
def test_without_a_network_one_sentence_says_what_was_tried_and_what_else_works(
    name: str, what: str
) -> None:
    with pytest.raises(CheckpointError, match=f"^{name} cannot be brought .* {what}") as told:
        fetch_weights(name)
    assert str(told.value).endswith(
        "Fill that cache on a machine with a network, or give a file of the weights."
    )
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("timm:no_such_net", r"timm [\d.]+ has no weights of that name\.$"),
        ("timm:resnet18.no_such_tag", r"has no weights of that name; it has resnet18\."),
        ("torchvision:ResNet18_Weights.NO_SUCH", "torchvision .* has no weights of that name"),
        ("torchvision:no_such_net", "called as in torchvision:ResNet50_Weights.IMAGENET1K_V2"),
    ],
)
def test_weights_that_are_not_published_are_named(name: str, sentence: str) -> None:
    with pytest.raises(CheckpointError, match=sentence):
        fetch_weights(name)


def test_without_the_hubs_package_the_sentence_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(LaunchError, match=r"need huggingface_hub: `pip install bt-ray\[encoders\]"):
        fetch_weights("hf:somebody/net")


def test_names_of_published_weights_say_what_they_hold() -> None:
    assert architecture_of("timm:vit_tiny_patch16_224.augreg_in21k") == "timm:vit_tiny_patch16_224"
    assert architecture_of("torchvision:ResNet50_Weights.IMAGENET1K_V2") == "resnet50"
    name = "torchvision:MobileNet_V3_Small_Weights.IMAGENET1K_V1"
    assert architecture_of(name) == "torchvision:mobilenet_v3_small"
    assert statistics_of("timm:vit_tiny_patch16_224") == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    with pytest.raises(CheckpointError, match="weights of no classifier; give --architecture"):
        architecture_of("torchvision:FCN_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1")


@pytest.mark.parametrize(
    "name", ["hf:a/b", "timm:net", "torchvision:net", "models:/a/1", "runs:/a"]
)
def test_names_are_no_places(name: str) -> None:
    assert not is_place(name)
    assert is_place("runs/mine")
    assert is_place("/data/resnet50.pth")
    assert is_place("s3://bucket/runs/mine")
