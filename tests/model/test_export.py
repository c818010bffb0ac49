"""Exported files, read by what others read them with."""

from pathlib import Path

import pytest
import torch
import torchvision

from bt_ray.config import override
from bt_ray.errors import CheckpointError
from bt_ray.model import export
from bt_ray.model.encoder import build_encoder
from bt_ray.model.export import FORMATS, TOLERANCE, export_encoder
from bt_ray.model.pretrained import Pretrained
from bt_ray.presets import preset


@pytest.fixture(scope="module")
def pretrained() -> Pretrained:
    """A ResNet-18 whose running statistics are not those of a new one."""
    settings = override(preset("images"), {"model.encoder": "resnet18", "views.image_px": 32})
    torch.manual_seed(0)
    encoder = build_encoder(settings)
    encoder(torch.randn(8, 3, 32, 32))
    return Pretrained(encoder.eval(), settings)


SLOW_TO_WRITE = ("onnx", "torch_export")


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.run) if n in SLOW_TO_WRITE else n for n in FORMATS],
)
def test_a_file_computes_what_the_encoder_does(
    name: str, pretrained: Pretrained, tmp_path: Path
) -> None:
    (exported,) = export_encoder(pretrained, tmp_path, (name,))
    assert exported.difference <= TOLERANCE
    images = torch.randn(5, 3, 32, 32)
    with torch.no_grad():
        found = FORMATS[name].read(pretrained, exported.file)(images)
        torch.testing.assert_close(found, pretrained.encoder(images), rtol=1e-4, atol=1e-5)


def test_the_state_dict_is_torchvisions(pretrained: Pretrained, tmp_path: Path) -> None:
    (exported,) = export_encoder(pretrained, tmp_path, ("state_dict",))
    resnet = torchvision.models.resnet18()
    resnet.fc = torch.nn.Identity()
    resnet.load_state_dict(torch.load(exported.file, weights_only=True))
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(resnet.eval()(images), pretrained.encoder(images))


def test_a_file_that_computes_something_else_is_refused(
    pretrained: Pretrained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_changed(encoder: torch.nn.Module, _: torch.Tensor, file: Path) -> None:
        torch.save({n: t * 1.001 for n, t in encoder.state_dict().items()}, file)

    faulty = export.Format(".pth", write_changed, FORMATS["state_dict"].read)
    monkeypatch.setitem(export.FORMATS, "state_dict", faulty)
    with pytest.raises(CheckpointError, match="computes something else"):
        export_encoder(pretrained, tmp_path, ("state_dict",))
