"""Encoders from files of weights, as others write them."""

import pickle
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from bt_ray.checkpoints.start import untrained
from bt_ray.config import Settings, override
from bt_ray.errors import CheckpointError
from bt_ray.model.pretrained import load_file_of_weights
from bt_ray.presets import preset

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def settings() -> Settings:
    return override(preset("images"), {"model.encoder": "resnet18", "views.image_px": 32})


@pytest.fixture
def resnet() -> torch.nn.Module:
    torch.manual_seed(1)
    return torchvision.models.resnet18(num_classes=7).eval()


@pytest.mark.parametrize("prefix", ["", "module.", "module.backbone.", "encoder."])
@pytest.mark.parametrize("nested", [None, "model", "state_dict"])
def test_torchvisions_weights_with_what_training_code_adds(
    prefix: str, nested: str | None, settings: Settings, resnet: torch.nn.Module, tmp_path: Path
) -> None:
    tensors = {f"{prefix}{name}": tensor for name, tensor in resnet.state_dict().items()}
    if prefix:
        tensors["projector.0.weight"] = torch.zeros(3)
    torch.save(tensors if nested is None else {"epoch": 3, nested: tensors}, tmp_path / "w.pth")
    encoder = load_file_of_weights(tmp_path / "w.pth", settings).encoder
    resnet.fc = torch.nn.Identity()
    with torch.no_grad():
        assert torch.equal(encoder(IMAGES), resnet(IMAGES))


def test_safetensors_without_a_classifier_or_counters(
    settings: Settings, resnet: torch.nn.Module, tmp_path: Path
) -> None:
    """The layout of the released `resnet50.pth`: the backbone alone."""
    tensors = {
        name: tensor
        for name, tensor in resnet.state_dict().items()
        if not name.startswith("fc.") and not name.endswith("num_batches_tracked")
    }
    save_file(tensors, tmp_path / "w.safetensors")
    encoder = load_file_of_weights(tmp_path / "w.safetensors", settings).encoder
    resnet.fc = torch.nn.Identity()
    with torch.no_grad():
        assert torch.equal(encoder(IMAGES), resnet(IMAGES))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model.encoder": "resnet34"}, "does not hold a resnet34 .* it lacks layer1.2"),
        ({"model.encoder": "resnet50"}, "does not hold a resnet50"),
        (
            {"model.stem": "cifar"},
            r"resnet18 \(cifar stem\): it has in another shape conv1",
        ),
    ],
)
def test_another_architecture_is_named(
    change: dict[str, str],
    sentence: str,
    settings: Settings,
    resnet: torch.nn.Module,
    tmp_path: Path,
) -> None:
    torch.save(resnet.state_dict(), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=sentence):
        load_file_of_weights(tmp_path / "w.pth", override(settings, change))


class Trap:
    """What a hostile pickle does when it is loaded."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('code of the pickle was run')",)


def test_a_pickle_is_not_run(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(pickle.dumps(Trap(), protocol=2))
    with pytest.raises(CheckpointError, match="cannot be read as a state dict"):
        load_file_of_weights(tmp_path / "w.pth", settings)


@pytest.mark.parametrize("content", [{"epoch": 3}, [torch.zeros(2)], torch.zeros(2)])
def test_what_is_no_state_dict(content: object, settings: Settings, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="holds no state dict"):
        load_file_of_weights(tmp_path / "w.pt", settings)


def test_untrained_is_what_a_new_run_starts_from(
    settings: Settings, resnet: torch.nn.Module, tmp_path: Path
) -> None:
    torch.save(resnet.state_dict(), tmp_path / "w.pth")
    pretrained = load_file_of_weights(tmp_path / "w.pth", settings)
    with torch.no_grad():
        once, again = (untrained(pretrained).encoder(IMAGES) for _ in range(2))
        assert torch.equal(once, again)
        assert not torch.allclose(once, pretrained.encoder(IMAGES))
