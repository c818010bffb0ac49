"""Writes a pretrained encoder in formats that other programs read, and checks each file.

A state dict and its safetensors twin hold the weights under the names of the encoder's library: a
ResNet's load into `torchvision.models.resnet50` with `fc = Identity()`, those of timm's models into
`timm.create_model(…, num_classes=0)`. ONNX and `torch.export` hold the
computation too, for any number of images of one size. `model.export_backbone` has the formats of
libraries of detectors.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from bt_ray.errors import CheckpointError, LaunchError
from bt_ray.model import export_backbone as backbone
from bt_ray.model.encoder import build_encoder
from bt_ray.model.pretrained import Pretrained
from bt_ray.model.weights import save_weights

TOLERANCE = 1e-5
"""How far the outputs of the encoder and of a file that was read back may differ, as a share of the
encoder's largest output."""
_EXAMPLES, _OTHERS = 2, 3


@dataclass(frozen=True)
class Exported:
    """A written file, and how far its outputs differ from the encoder's, as `TOLERANCE` counts."""

    name: str
    """Of its format."""
    file: Path
    difference: float


@torch.no_grad()
def export_encoder(
    pretrained: Pretrained, folder: Path, formats: tuple[str, ...]
) -> list[Exported]:
    """Writes the encoder into `folder`, one file a format, and reads each back.

    Args:
      formats: names in `FORMATS`.
    Raises: CheckpointError if a file that was read back computes something else than the encoder;
      LaunchError if a format needs a package that is not installed, or is not of such encoders.
    """
    for name in formats:
        if name in backbone.BACKBONES:
            backbone.check_backbone(pretrained.settings, name)
    folder.mkdir(parents=True, exist_ok=True)
    encoder = pretrained.encoder.cpu().float().eval()
    px, channels = pretrained.settings.views.image_px, pretrained.settings.data.channels
    generator = torch.Generator().manual_seed(0)
    examples = torch.randn(_EXAMPLES, channels, px, px, generator=generator)
    others = torch.randn(_OTHERS, channels, px, px, generator=generator)
    expected = encoder(others)
    exported = []
    for name in formats:
        file = folder / f"encoder{FORMATS[name].suffix}"
        FORMATS[name].write(encoder, examples, file)
        found = FORMATS[name].read(pretrained, file)(others)
        difference = float((found - expected).abs().max() / expected.abs().max())
        if not difference <= TOLERANCE:
            raise CheckpointError(
                f"{file} computes something else than the encoder: they differ by {difference:.1e} "
                f"of the largest value, and {TOLERANCE:.0e} is allowed. Do not use it."
            )
        exported.append(Exported(name, file, difference))
    return exported


Encode = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Format:
    """How an encoder is written to a file, and how the file is read back as a function."""

    suffix: str
    write: Callable[[nn.Module, Tensor, Path], None]
    read: Callable[[Pretrained, Path], Encode]


def _of_backbone(
    name: str,
    write: Callable[[nn.Module, Tensor, Path], None],
    read: Callable[[Path, Mapping[str, Tensor]], dict[str, Tensor]],
) -> Format:
    """The format of a library's backbones, whose tensors `read` finds by torchvision's names."""

    def read_back(pretrained: Pretrained, file: Path) -> Encode:
        return _with_weights(pretrained, read(file, pretrained.encoder.state_dict()))

    return Format(f".{name}.pth", write, read_back)


def _write_state_dict(encoder: nn.Module, _: Tensor, file: Path) -> None:
    torch.save(encoder.state_dict(), file)


def _read_state_dict(pretrained: Pretrained, file: Path) -> Encode:
    return _with_weights(pretrained, torch.load(file, weights_only=True))


def _write_safetensors(encoder: nn.Module, _: Tensor, file: Path) -> None:
    save_weights(encoder, file)


def _read_safetensors(pretrained: Pretrained, file: Path) -> Encode:
    return _with_weights(pretrained, load_file(file))


def _with_weights(pretrained: Pretrained, tensors: dict[str, Tensor]) -> Encode:
    encoder = build_encoder(pretrained.settings)
    encoder.load_state_dict(tensors)
    return encoder.eval()


def _any_number() -> dict[str, Any]:
    return {"dynamic_shapes": ({0: torch.export.Dim("images", min=1)},)}


def _write_program(encoder: nn.Module, examples: Tensor, file: Path) -> None:
    torch.export.save(torch.export.export(encoder, (examples,), **_any_number()), file)


def _read_program(_: Pretrained, file: Path) -> Encode:
    return torch.export.load(file).module()


def _write_onnx(encoder: nn.Module, examples: Tensor, file: Path) -> None:
    _need_onnx()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            encoder,
            (examples,),
            file,
            dynamo=True,
            external_data=False,
            input_names=["images"],
            output_names=["representations"],
            verbose=False,
            **_any_number(),
        )


def _read_onnx(_: Pretrained, file: Path) -> Encode:
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def _need_onnx() -> None:
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise LaunchError(
            f"The format onnx needs {error.name}: `pip install onnxscript onnxruntime`, or leave "
            "onnx out of --formats."
        ) from error


FORMATS = {
    "state_dict": Format(".pth", _write_state_dict, _read_state_dict),
    "safetensors": Format(".safetensors", _write_safetensors, _read_safetensors),
    "onnx": Format(".onnx", _write_onnx, _read_onnx),
    "torch_export": Format(".pt2", _write_program, _read_program),
    "detectron2": _of_backbone("detectron2", backbone.write_detectron2, backbone.read_detectron2),
    "mmdet": _of_backbone("mmdet", backbone.write_mmdet, backbone.read_mmdet),
    "torchvision-detection": _of_backbone(
        "torchvision-detection",
        backbone.write_torchvision_detection,
        backbone.read_torchvision_detection,
    ),
}
