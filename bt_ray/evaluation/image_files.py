"""Features of image files that are in no shards."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bt_ray.config import Settings
from bt_ray.data.views.raster import Levels, central_view
from bt_ray.errors import CheckpointError, DataError
from bt_ray.evaluation.features import fingerprint, place_encoder
from bt_ray.evaluation.labelled import digest
from bt_ray.model.inputs import normalize
from bt_ray.model.pretrained import Pretrained

_BLOCK = 128
_THREADS = 4


@torch.no_grad()
def encode_files(
    pretrained: Pretrained,
    files: Sequence[Path],
    device: torch.device,
    on_progress: Callable[[int], None] = lambda done: None,
) -> NDArray[np.float32]:
    """Features (n, F) of each file's central view; the encoder stays as it is.

    Raises: DataError if a file cannot be decoded; CheckpointError if the encoder came out changed.
    """
    before = fingerprint(pretrained.encoder)
    encoder, settings = place_encoder(pretrained, device), pretrained.settings
    parts = []
    with ThreadPoolExecutor(_THREADS) as pool:
        for first in range(0, len(files), _BLOCK):
            some = files[first : first + _BLOCK]
            views = list(pool.map(lambda file: _view(file, settings), some))
            pixels = torch.from_numpy(np.stack(views).transpose(0, 3, 1, 2).copy())
            levels = normalize(pixels.to(device), settings.data)
            levels = levels.contiguous(memory_format=torch.channels_last)
            parts.append(encoder(levels).float().cpu().numpy())
            on_progress(first + len(views))
    if fingerprint(pretrained.encoder) != before:
        raise CheckpointError("The encoder changed while it was evaluated; it must be frozen.")
    return np.concatenate(parts)


def digest_files(files: Sequence[Path]) -> NDArray[np.uint64]:
    """64 bits of each file's bytes, (n,)."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return np.array(list(pool.map(lambda file: digest(file.read_bytes()), files)), np.uint64)


def _view(file: Path, settings: Settings) -> Levels:
    try:
        return central_view(file.read_bytes(), settings)
    except OSError as error:
        raise DataError(
            f"{file} cannot be decoded ({error}); unpack it again, or take it out of its list."
        ) from error
