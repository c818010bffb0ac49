"""A ResNet's weights as libraries of detectors load them into their backbones.

- detectron2: `{"model": {"stem.conv1.weight": …}, "matching_heuristics": True}`, MODEL.WEIGHTS.
  Only with the heuristics does it find a backbone's names within those of a whole detector. It
  reads such a mapping from a torch file (.pth) as from a pickle (.pkl); this is a torch file, whose
  tensors can be read without running code.
- mmdet: `{"state_dict": …}` for `init_cfg`. Each tensor has two names, one of them after
  `backbone.`, and is stored once: mmengine only warns of names that it does not find, and would go
  on with new weights if it was told a prefix that is not there, or none where there is one.
- torchvision-detection: the state dict of `resnet_fpn_backbone(…).body`.

Names as in: detectron2, `modeling/backbone/resnet.py`; mmdet, `models/backbones/resnet.py`; He et
al. 2019 (MoCo), `detection/convert-pretrain-to-detectron2.py`.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from bt_ray.config import Settings
from bt_ray.config.model import RESNETS
from bt_ray.errors import LaunchError
from bt_ray.model.inputs import shares

BACKBONES = ("detectron2", "mmdet", "torchvision-detection")
"""Names of the formats."""
_MMDET_PREFIX = "backbone."
_OF_BASIC_BLOCKS = ("18", "34")
"""Depths whose first stage has 64 channels, where detectron2 expects 256."""
_DETECTRON2 = (
    (re.compile(r"^(conv1|bn1)\."), r"stem.\1."),
    (re.compile(r"^layer(\d)\."), lambda found: f"res{int(found[1]) + 1}."),
    (re.compile(r"\bbn(\d)\."), r"conv\1.norm."),
    (re.compile(r"\bdownsample\.0\."), "shortcut."),
    (re.compile(r"\bdownsample\.1\."), "shortcut.norm."),
)
"""From torchvision's names to detectron2's, one after the other."""


def check_backbone(settings: Settings, name: str) -> None:
    """Raises LaunchError unless the settings' encoder can be exported in the format `name`."""
    model = settings.model
    if model.encoder.removeprefix("torchvision:") not in RESNETS:
        raise LaunchError(
            f"The format {name} is of ResNets ({', '.join(RESNETS)}), and this encoder is "
            f"{model.encoder}; leave {name} out of --formats."
        )
    if model.stem != "imagenet" or settings.data.channels != 3:
        raise LaunchError(
            f"The format {name} is of ResNets on images of three channels that begin with a 7×7 "
            f"convolution (--model.stem imagenet); this one has the stem {model.stem} and takes "
            f"{settings.data.channels} channels. Leave {name} out of --formats."
        )


def detectron2_name(name: str) -> str:
    """What detectron2 calls the tensor of torchvision's ResNets with this name."""
    for pattern, replacement in _DETECTRON2:
        name = pattern.sub(replacement, name)
    return name


def write_detectron2(encoder: nn.Module, _: Tensor, file: Path) -> None:
    """Writes a ResNet for detectron2's MODEL.WEIGHTS."""
    tensors = {detectron2_name(name): value for name, value in _contiguous(encoder).items()}
    torch.save({"model": tensors, "__author__": "bt_ray", "matching_heuristics": True}, file)


def read_detectron2(file: Path, names: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of that file under torchvision's `names`."""
    tensors = torch.load(file, weights_only=True)["model"]
    return {name: tensors[detectron2_name(name)] for name in names}


def write_mmdet(encoder: nn.Module, _: Tensor, file: Path) -> None:
    """Writes a ResNet for mmdet's `init_cfg`."""
    tensors = _contiguous(encoder)
    prefixed = {f"{_MMDET_PREFIX}{name}": value for name, value in tensors.items()}
    torch.save({"state_dict": tensors | prefixed}, file)


def read_mmdet(file: Path, names: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of that file under torchvision's `names`."""
    tensors = torch.load(file, weights_only=True)["state_dict"]
    return {name: tensors[f"{_MMDET_PREFIX}{name}"] for name in names}


def write_torchvision_detection(encoder: nn.Module, _: Tensor, file: Path) -> None:
    """Writes a ResNet for the body of torchvision's `resnet_fpn_backbone`."""
    torch.save(_contiguous(encoder), file)


def read_torchvision_detection(file: Path, _: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of that file."""
    return dict(torch.load(file, weights_only=True))


def _contiguous(encoder: nn.Module) -> dict[str, Tensor]:
    return {name: value.contiguous() for name, value in encoder.state_dict().items()}


def how_to_load(name: str, settings: Settings, file: Path) -> str:
    """What a configuration of the library must say for these weights, in its own words."""
    encoder = settings.model.encoder.removeprefix("torchvision:")
    depth = encoder.removeprefix("resnet")
    mean, std = shares(settings.data)
    if name == "torchvision-detection":
        return (
            f'resnet_fpn_backbone(backbone_name="{encoder}", weights=None).body'
            f'.load_state_dict(torch.load("{file}")); image_mean={_rounded(mean)}, '
            f"image_std={_rounded(std)}"
        )
    levels = [_rounded([255 * share for share in values]) for values in (mean, std)]
    if name == "mmdet":
        return (
            f'backbone=dict(type="ResNet", depth={depth}, style="pytorch", '
            f'init_cfg=dict(type="Pretrained", checkpoint="{file}")); '
            f"data_preprocessor=dict(mean={levels[0]}, std={levels[1]}, bgr_to_rgb=True)"
        )
    narrow = "MODEL.RESNETS.RES2_OUT_CHANNELS 64 " if depth in _OF_BASIC_BLOCKS else ""
    return (
        f"MODEL.WEIGHTS {file} MODEL.RESNETS.DEPTH {depth} {narrow}"
        f"MODEL.RESNETS.STRIDE_IN_1X1 False MODEL.RESNETS.NORM SyncBN "
        f"MODEL.BACKBONE.FREEZE_AT 0 INPUT.FORMAT RGB "
        f"MODEL.PIXEL_MEAN '{levels[0]}' MODEL.PIXEL_STD '{levels[1]}'"
    )


def _rounded(values: list[float] | tuple[float, ...]) -> list[float]:
    return [round(value, 4) for value in values]
