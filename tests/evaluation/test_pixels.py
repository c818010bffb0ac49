"""Encoders of images that are not 8-bit RGB are evaluated on the levels they were trained on."""

from pathlib import Path

import numpy as np
import pytest
import torch

from bt_ray.config import Settings, override
from bt_ray.data.preparation.prepare import prepare_data
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.views.raster import central_view
from bt_ray.embedding.part import view_of
from bt_ray.evaluation.features import compute_features
from bt_ray.evaluation.image_files import encode_files
from bt_ray.evaluation.images import load_images
from bt_ray.model.encoder import build_encoder
from bt_ray.model.pretrained import Pretrained
from bt_ray.presets import preset
from bt_ray.report.look import look_at
from tests.data.pictures import write_folder
from tests.data.rasters import levels, npy, pillow

CPU = torch.device("cpu")


def prepared(tmp_path: Path, images: dict[str, bytes], **data: object) -> Settings:
    folder = write_folder(tmp_path / f"{data}", images)
    changes = {"data.train": folder, "data.test": None, "storage": str(tmp_path / "runs")}
    changes |= {f"data.{name}": value for name, value in data.items()}  # type: ignore[misc]
    return prepare_data(override(preset("digits"), changes))


def pretrained(settings: Settings) -> Pretrained:
    torch.manual_seed(0)
    return Pretrained(build_encoder(settings).eval(), settings)


def test_every_way_to_evaluate_sees_the_same_view(tmp_path: Path) -> None:
    """Of shards, of files and for vectors; an image of other channels is left out."""
    images = {f"{i}.npy": npy(levels(i)) for i in range(8)}
    settings = prepared(tmp_path, images, channels=5, bit_depth=16)
    shards = ShardSet.open(settings.data.train)
    table = shards.read(np.arange(1))
    loaded = load_images(table, settings)
    px = settings.views.image_px
    assert (loaded.pixels.dtype, loaded.pixels.shape) == (torch.uint16, (8, 5, px, px))
    encoded = [image.as_py() for image in table["image"]]
    for view, content in zip(loaded.pixels.numpy(), encoded, strict=True):
        wanted = central_view(content, settings)
        assert np.array_equal(view.transpose(1, 2, 0), wanted)
        assert np.array_equal(view_of(content, settings), wanted)
    four = override(settings, {"data.channels": 4, "data.mean": [0.5] * 4, "data.std": [0.5] * 4})
    assert len(load_images(table, four).pixels) == 0

    encoder = pretrained(settings)
    x = compute_features(encoder, shards, CPU).x
    files = [tmp_path / f"{i}" for i in range(8)]
    for file, content in zip(files, encoded, strict=True):
        file.write_bytes(content)
    np.testing.assert_allclose(encode_files(encoder, files, CPU), x, rtol=1e-4, atol=1e-5)
    look = look_at(encoder, 100)
    assert (look.pixels.dtype, look.pixels.shape) == (np.uint8, (8, px, px, 3))
    assert look.pixels.std() > 20, "seen by people, and not black"


def test_16_bits_of_the_same_pictures_are_encoded_as_8(tmp_path: Path) -> None:
    """From files to features, each set normalised by its own measured numbers."""
    found = []
    for bits, factor, kind in ((8, 1, np.uint8), (16, 257, np.uint16)):
        greys = [levels(i, channels=1, dtype=np.uint8)[..., 0].astype(kind) for i in range(6)]
        images = {f"{i}.png": pillow(grey * kind(factor)) for i, grey in enumerate(greys)}
        settings = prepared(tmp_path, images, channels=1, bit_depth=bits)
        shards = ShardSet.open(settings.data.train)
        found.append((settings.data.mean, compute_features(pretrained(settings), shards, CPU).x))
    (mean_8, x_8), (mean_16, x_16) = found
    assert mean_8 == pytest.approx(mean_16, rel=1e-12)
    torch.testing.assert_close(x_16, x_8, rtol=0.05, atol=0.02)  # 8-bit views are rounded coarsely
