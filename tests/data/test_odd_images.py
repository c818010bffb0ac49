"""Images as users have them: odd ones are trained on, broken ones are named."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bt_ray.config import Settings, override
from bt_ray.errors import DataError
from bt_ray.tracking.tracker import METRICS, read_history
from bt_ray.training.launch import pretrain

pytestmark = pytest.mark.run

MODES = {"grey.jpg": "L", "cmyk.jpg": "CMYK", "palette.gif": "P", "alpha.png": "RGBA", "1.png": "1"}


def fill(folder: Path) -> None:
    """Twenty images in nested folders, among them every odd kind and a single pixel."""
    random = np.random.default_rng(0)
    for number in range(10):
        file = folder / f"deep/{number % 3}/{number}.JPEG"
        file.parent.mkdir(parents=True, exist_ok=True)
        levels = random.integers(0, 255, (20 + number, 30, 3), dtype=np.uint8)
        Image.fromarray(levels).save(file)
    for name, mode in MODES.items():
        Image.fromarray(random.integers(0, 255, (9, 9, 3), dtype=np.uint8)).convert(mode).save(
            folder / name
        )
    Image.new("RGB", (1, 1), "red").save(folder / "pixel.png")
    Image.new("RGB", (9, 9), "blue").save(folder / "a PNG.JPEG", format="PNG")
    deep = Image.fromarray(random.integers(0, 65535, (9, 9)).astype(np.uint16))
    deep.save(folder / "16 bits.png")
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("green", "black")]
    frames[0].save(folder / "animated.webp", save_all=True, append_images=frames[1:])
    turned = Image.Exif()
    turned[0x0112] = 6
    frames[0].save(folder / "turned.jpg", exif=turned)
    (folder / "notes.txt").write_text("not an image, and not named like one")


@pytest.mark.parametrize("photometry", ["loader", "device"])
def test_a_nested_folder_of_mixed_formats_without_labels_is_trained_on(
    small_settings: Settings, tmp_path: Path, photometry: str
) -> None:
    fill(tmp_path / "images")
    changes = {
        "data.train": str(tmp_path / "images"), "data.test": None, "data.global_batch": 8,
        "views.blur_probability": [1.0, 1.0], "views.solarize_probability": [0.5, 0.5],
        "views.photometry": photometry, "scaling.workers": 0,
    }  # fmt: skip
    summary = pretrain(override(small_settings, changes), register=False)
    assert summary.steps == 6
    assert summary.scores["knn_top1"] is None
    assert (summary.scores["rankme"] or 0) >= 1
    assert "knn/top1" not in read_history(Path(summary.paths["run"]) / METRICS)


@pytest.mark.parametrize("content", [b"this is no image", b"\xff\xd8\xff\xe0 cut", b""])
def test_what_is_only_named_like_an_image_is_named_and_no_shards_are_left_behind(
    tmp_path: Path, small_settings: Settings, content: bytes
) -> None:
    fill(tmp_path / "images")
    (tmp_path / "images" / "broken.jpg").write_bytes(content)
    settings = override(
        small_settings, {"data.train": str(tmp_path / "images"), "scaling.workers": 0}
    )
    with pytest.raises(DataError, match=r"'broken.jpg' cannot be decoded .* remove or repair it"):
        pretrain(settings)
    assert not list(tmp_path.glob("shards/*/*.parquet"))
    assert not list(tmp_path.glob("shards/*/manifest.json"))
    summary = pretrain(
        override(settings, {
            "data.on_bad_image": "skip", "data.test": None, "data.global_batch": 8,
            "schedule.epochs": 1,
        }), register=False,
    )  # fmt: skip
    assert summary.steps == 2
    assert any("without 1 image that cannot be decoded" in note for note in summary.warnings)
