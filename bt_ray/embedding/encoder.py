"""The encoder of a folder of vectors, which is kept in that folder.

Every worker loads it from there, so that all vectors are computed with the same weights, also after
a restart. And an image can be looked up among the vectors without the run that trained the encoder.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bt_ray.config import SETTINGS_FILE, Settings, to_json
from bt_ray.data.location import locate, public_name, write_whole
from bt_ray.data.views.raster import Levels
from bt_ray.embedding.manifest import Precision
from bt_ray.errors import CheckpointError, DataError
from bt_ray.evaluation.features import fingerprint
from bt_ray.model.inputs import normalize
from bt_ray.model.pretrained import Pretrained, load_folder
from bt_ray.model.weights import ENCODER, save_weights
from bt_ray.precision import autocast

FOLDER = "encoder"
_FILES = (ENCODER, SETTINGS_FILE)

Device = Literal["cpu", "cuda"]


@dataclass(frozen=True, kw_only=True)
class Computation:
    """How vectors are computed; only `precision` changes them by more than rounding.

    `threads` decode images and, on a CPU, compute.
    """

    device: Device = "cpu"
    threads: int = 1
    batch_size: int = 64
    precision: Precision = "fp32"


@dataclass(frozen=True)
class Encoder:
    """Turns the central views of images into vectors.

    `settings` are those of the encoder's run, but with the precision that is computed in.
    """

    module: nn.Module
    device: torch.device
    settings: Settings

    @torch.inference_mode()
    def __call__(self, pixels: Sequence[Levels]) -> NDArray[np.float32]:
        """Vectors (n, F) of n images, each (px, px, c)."""
        levels = torch.from_numpy(np.stack(pixels)).to(self.device).permute(0, 3, 1, 2)
        with autocast(self.settings.training, self.device):
            found: torch.Tensor = self.module(normalize(levels, self.settings.data))
        vectors: NDArray[np.float32] = found.float().cpu().numpy()
        return vectors


def keep_encoder(root: str, pretrained: Pretrained) -> None:
    """Writes the encoder into the folder `root`; no file is ever half written."""
    filesystem, path = locate(root)
    filesystem.create_dir(f"{path}/{FOLDER}", recursive=True)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder, ENCODER)
        save_weights(pretrained.encoder, weights)
        write_whole(filesystem, f"{path}/{FOLDER}/{ENCODER}", weights.read_bytes())
    text = to_json(pretrained.settings)
    write_whole(filesystem, f"{path}/{FOLDER}/{SETTINGS_FILE}", text.encode())


@lru_cache(maxsize=1)  # a worker has one task after the other, of one folder
def load_encoder(root: str, digest: str, computation: Computation) -> Encoder:
    """The encoder beside the vectors in `root`, ready to compute.

    Args:
      digest: the digest that its weights must have (`features.fingerprint`).
    Raises: DataError if it is missing; CheckpointError if it is another one.
    """
    filesystem, path = locate(root)
    with tempfile.TemporaryDirectory() as folder:
        for name in _FILES:
            try:
                with filesystem.open_input_stream(f"{path}/{FOLDER}/{name}") as stream:
                    Path(folder, name).write_bytes(stream.read())
            except FileNotFoundError as error:
                raise DataError(
                    f"{public_name(root)!r} lacks {FOLDER}/{name}, the encoder of its vectors; "
                    "restore it, or embed the images again in a new folder."
                ) from error
        pretrained = load_folder(Path(folder))
    if fingerprint(pretrained.encoder) != digest:
        raise CheckpointError(
            f"The encoder in {public_name(root)!r} is not the one of its vectors; restore it, or "
            "embed the images again in a new folder."
        )
    torch.set_num_threads(computation.threads)
    device = torch.device(computation.device)
    module = pretrained.encoder.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    training = replace(pretrained.settings.training, precision=computation.precision)
    return Encoder(module, device, replace(pretrained.settings, training=training))
