"""ResNets for the backbones of detectors, read as detectron2, mmdet and torchvision lay them out.

torchvision's own code reads its file. detectron2 and mmdet are no dependencies: their names are
written down here, and a plain reader computes a ResNet from what detectron2's file holds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, conv2d, max_pool2d, relu
from torchvision.models import get_model
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

from bt_ray.config import Settings, override
from bt_ray.errors import LaunchError
from bt_ray.model.encoder import build_encoder
from bt_ray.model.export import export_encoder
from bt_ray.model.export_backbone import BACKBONES, how_to_load
from bt_ray.model.pretrained import Pretrained
from bt_ray.presets import preset

BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3)}
NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
Tensors = Mapping[str, Tensor]


def settings_of(encoder: str, **changes: object) -> Settings:
    return override(preset("images"), {"model.encoder": encoder, "views.image_px": 32} | changes)


@dataclass(frozen=True)
class Written:
    """An encoder and its files by format."""

    pretrained: Pretrained
    files: Mapping[str, Path]

    @property
    def name(self) -> str:
        return self.pretrained.settings.model.encoder


@pytest.fixture(scope="module", params=BLOCKS)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Written:
    """A ResNet none of whose tensors is as a new one's, whose running statistics are its own."""
    settings = settings_of(request.param)
    torch.manual_seed(0)
    encoder = build_encoder(settings)
    with torch.no_grad():
        for parameter in encoder.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.rand_like(parameter))
        for part in encoder.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.momentum = 1.0
        encoder(torch.randn(8, 3, 64, 64))
    pretrained = Pretrained(encoder.eval(), settings)
    folder = tmp_path_factory.mktemp(request.param)
    exported = export_encoder(pretrained, folder, ("state_dict", *BACKBONES))
    return Written(pretrained, {one.name: one.file for one in exported})


def maps(resnet: nn.Module, x: Tensor) -> list[Tensor]:
    """What each of a torchvision ResNet's stages gives."""
    x = resnet.maxpool(resnet.relu(resnet.bn1(resnet.conv1(x))))  # type: ignore[operator]
    found = []
    for stage in (resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4):
        x = stage(x)  # type: ignore[operator]
        found.append(x)
    return found


def convolutions(encoder: str) -> list[str]:
    """Names of all convolutions in detectron2's ResNet, each of which has a `norm`."""
    count = 2 if encoder == "resnet18" else 3
    names = ["stem.conv1"]
    for stage, blocks in enumerate(BLOCKS[encoder], start=2):
        for block in range(blocks):
            names += [f"res{stage}.{block}.conv{i}" for i in range(1, count + 1)]
        if not (encoder == "resnet18" and stage == 2):  # where the widths differ already
            names.append(f"res{stage}.0.shortcut")
    return names


def convolve(x: Tensor, tensors: Tensors, name: str, stride: int = 1) -> Tensor:
    """A convolution of detectron2's, with its norm."""
    weight = tensors[f"{name}.weight"].double()
    x = conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
    scale, shift, mean, var = (tensors[f"{name}.norm.{part}"].double() for part in NORM[:4])
    return batch_norm(x, mean, var, scale, shift, eps=1e-5)


def detectron2_maps(tensors: Tensors, encoder: str, x: Tensor) -> list[Tensor]:
    """What each stage of detectron2's ResNet gives, with STRIDE_IN_1X1 False."""
    x = max_pool2d(relu(convolve(x.double(), tensors, "stem.conv1", 2)), 3, 2, 1)
    found = []
    for stage, blocks in enumerate(BLOCKS[encoder], start=2):
        for block in range(blocks):
            name, stride = f"res{stage}.{block}", 2 if block == 0 and stage > 2 else 1
            short = x
            if f"{name}.shortcut.weight" in tensors:
                short = convolve(x, tensors, f"{name}.shortcut", stride)
            if encoder == "resnet18":
                x = relu(convolve(x, tensors, f"{name}.conv1", stride))
                x = convolve(x, tensors, f"{name}.conv2")
            else:
                x = relu(convolve(x, tensors, f"{name}.conv1"))
                x = relu(convolve(x, tensors, f"{name}.conv2", stride))
                x = convolve(x, tensors, f"{name}.conv3")
            x = relu(x + short)
        found.append(x)
    return found


def assert_near(found: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert (one - other).abs().max() <= 1e-5 * other.abs().max()


@torch.no_grad()
def test_detectron2(written: Written) -> None:
    content = torch.load(written.files["detectron2"], weights_only=True)
    assert content["matching_heuristics"] is True, "else a detector's names are not matched"
    names = convolutions(written.name)
    expected = {f"{name}.weight" for name in names}
    expected |= {f"{name}.norm.{part}" for name in names for part in NORM}
    assert content["model"].keys() == expected
    x = torch.randn(2, 3, 48, 64)
    found = detectron2_maps(content["model"], written.name, x)
    assert_near(found, maps(written.pretrained.encoder, x))


@torch.no_grad()
@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_mmdet(prefix: str, written: Written) -> None:
    """mmdet's ResNet has the names of torchvision's."""
    file, plain = written.files["mmdet"], written.files["state_dict"]
    tensors = torch.load(file, weights_only=True)["state_dict"]
    resnet = get_model(written.name, weights=None)
    resnet.fc = nn.Identity()
    names = resnet.state_dict().keys()
    assert tensors.keys() == {p + name for name in names for p in ("", "backbone.")}
    resnet.load_state_dict({name: tensors[prefix + name] for name in names})
    x = torch.randn(2, 3, 48, 64)
    assert_near(maps(resnet.eval(), x), maps(written.pretrained.encoder, x))
    assert file.stat().st_size < 1.01 * plain.stat().st_size, "stored once"


@torch.no_grad()
@pytest.mark.parametrize("norm", [FrozenBatchNorm2d, nn.BatchNorm2d])
def test_torchvision(norm: type[nn.Module], written: Written) -> None:
    tensors = torch.load(written.files["torchvision-detection"], weights_only=True)
    backbone = resnet_fpn_backbone(backbone_name=written.name, weights=None, norm_layer=norm)
    backbone.body.load_state_dict(tensors, strict=True)
    x = torch.randn(2, 3, 48, 64)
    found = list(backbone.eval().body(x).values())
    assert_near(found, maps(written.pretrained.encoder, x))


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (settings_of("conv4"), "is of ResNets .*and this encoder is conv4"),
        (settings_of("timm:resnet18"), "this encoder is timm:resnet18"),
        (settings_of("resnet18", **{"model.stem": "cifar"}), "has the stem cifar"),
        (settings_of("resnet18", **{"data.channels": 1}), "takes 1 channels"),
    ],
)
def test_what_they_have_no_backbone_for_is_refused(
    name: str, settings: Settings, sentence: str, tmp_path: Path
) -> None:
    pretrained = Pretrained(nn.Identity(), settings)
    with pytest.raises(LaunchError, match=sentence):
        export_encoder(pretrained, tmp_path / "out", ("state_dict", name))
    assert not (tmp_path / "out").exists()


def test_what_a_configuration_must_say() -> None:
    """Pixels as the encoder was trained: in levels of RGB, whatever the library reads."""
    usual = {"data.mean": (0.2, 0.4, 0.6), "data.std": (0.1, 0.2, 0.4)}
    settings = settings_of("resnet18", **usual)
    said = {name: how_to_load(name, settings, Path("w.pth")) for name in BACKBONES}
    for part in (
        "MODEL.PIXEL_MEAN '[51.0, 102.0, 153.0]'", "MODEL.PIXEL_STD '[25.5, 51.0, 102.0]'",
        "INPUT.FORMAT RGB", "DEPTH 18 ", "RES2_OUT_CHANNELS 64", "STRIDE_IN_1X1 False",
    ):  # fmt: skip
        assert part in said["detectron2"]
    assert "mean=[51.0, 102.0, 153.0], std=[25.5, 51.0, 102.0]" in said["mmdet"]
    assert "bgr_to_rgb=True" in said["mmdet"]
    assert "image_mean=[0.2, 0.4, 0.6]" in said["torchvision-detection"]
    assert "RES2_OUT_CHANNELS" not in how_to_load("detectron2", settings_of("resnet50"), Path("w"))
