"""Writes a pretrained encoder for others to read: `python -m pipelines.export ENCODER DEST`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from pipelines.encoders import EncoderOrder
from pipelines.terminal import command, console, finish, guarded, warn

if TYPE_CHECKING:
    from bt_ray.model.pretrained import Pretrained
    from bt_ray.tracking.mlflow import MlflowRun

Name = Literal[
    "state_dict",
    "safetensors",
    "onnx",
    "torch_export",
    "detectron2",
    "mmdet",
    "torchvision-detection",
]


@dataclass(frozen=True, kw_only=True)
class Export(EncoderOrder):
    """Writes an encoder as files that torchvision, ONNX Runtime, torch or detectors load."""

    destination: Annotated[str, tyro.conf.Positional]
    """Folder of the files."""
    formats: tuple[Name, ...] = ("state_dict", "safetensors", "onnx", "torch_export")
    """What to write: encoder.pth, encoder.safetensors, encoder.onnx, encoder.pt2; of ResNets also
    what detectron2, mmdet and torchvision's detectors load into their backbones:
    encoder.detectron2.pth, encoder.mmdet.pth, encoder.torchvision-detection.pth."""


@command
def main() -> None:
    """Parses the command line, writes and reads back each file."""
    order = guarded(lambda: tyro.cli(Export, prog="python -m pipelines.export"))
    finish(guarded(lambda: export(order)))


def export(order: Export) -> dict[str, object]:
    """The record of what was written."""
    from bt_ray.evaluation.encoder import open_encoder
    from bt_ray.model.export import export_encoder
    from bt_ray.model.export_backbone import BACKBONES, how_to_load

    pretrained, run = open_encoder(order.encoder, order.settings())
    exported = export_encoder(pretrained, Path(order.destination), order.formats)
    for one in exported:
        megabytes = one.file.stat().st_size / 2**20
        console.print(
            f"{one.file}: {megabytes:,.1f} MB, read back within {one.difference:.0e} of the encoder"
        )
        if one.name in BACKBONES:
            words = how_to_load(one.name, pretrained.settings, one.file)
            console.print(f"  {words}", soft_wrap=True, highlight=False, markup=False)
    files = {one.file.name.removeprefix("encoder."): one for one in exported}
    card = None if run is None else _write_card(order, pretrained, run)
    return {
        "run_id": None if run is None else run.run_id,
        "steps": None,
        "images_per_s": None,
        "scores": {f"difference_{kind}": one.difference for kind, one in files.items()},
        "model_version": None,
        "paths": {kind: str(one.file) for kind, one in files.items()}
        | ({} if card is None else {"card": str(card)}),
    }


def _write_card(order: Export, pretrained: "Pretrained", run: "MlflowRun") -> Path | None:
    """The file of the model card beside what is exported; none, and a warning, without MLflow."""
    from bt_ray.errors import TrackingError
    from bt_ray.model.weights import fingerprint
    from bt_ray.tracking.registry import card_of
    from bt_ray.tracking.registry_card import CARD

    try:
        weights = fingerprint(pretrained.encoder)
        card = card_of(order.encoder, run, pretrained.settings, weights)
    except TrackingError as error:
        warn(f"No model card is written. {error}")
        return None
    file = Path(order.destination) / CARD
    file.write_text(card)
    return file


if __name__ == "__main__":
    main()
