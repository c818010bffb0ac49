"""The sheet shows images, and the very views that a run trains on."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from PIL import Image

from bt_ray.config import Settings, ViewSettings, override
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.stream.batches import local_batches
from bt_ray.data.stream.decode import make_views
from bt_ray.data.stream.examples import make_examples
from bt_ray.errors import DataError
from bt_ray.figures.views import Row, _ways, join_views, to_rgb
from bt_ray.training import sheet
from bt_ray.training.sheet import describe_views, write_sheet, write_sheet_of_shards
from tests.data.views.test_planes import picture, settings_of, step_of

TURNED = ViewSettings(
    image_px=20, rotation_degrees=20.0, quarter_turns=True, vertical_flip_probability=0.5
)


def encoded(channels: int, bits: int, count: int = 3) -> list[tuple[str, bytes]]:
    """Names and NumPy files of images of several sizes."""
    images = [picture(channels, bits, height=40 + i) for i in range(count)]
    return [(f"scan {i}", e) for i, e in enumerate(step_of(images)["image"].to_pylist())]


def first_rows(settings: Settings) -> list[tuple[str, bytes]]:
    group = ShardSet.open(settings.data.train).read(np.array([0]))
    return list(zip(group["sample_id"].to_pylist(), group["image"].to_pylist(), strict=True))


def test_the_views_shown_are_those_that_the_run_trains_on(small_settings: Settings) -> None:
    """Row by row, in the epoch that the sheet names."""
    examples = make_examples(first_rows(small_settings), small_settings, count=5, epochs=2)
    trained: dict[tuple[int, int], tuple[Any, ...]] = {}
    shards = ShardSet.open(small_settings.data.train)
    for batch in local_batches(small_settings, shards, start=0, stop=4, device=torch.device("cpu")):
        for i, row in enumerate(batch.samples.tolist()):
            trained[batch.step // 2, row] = tuple(view[i] for view in batch.views)
    compared = 0
    for row, example in enumerate(examples):
        shown = [torch.from_numpy(view.levels.transpose(2, 0, 1)) for view in example.views]
        for epoch in (0, 1):
            if (epoch, row) in trained:
                ours, theirs = shown[2 * epoch : 2 * epoch + 2], trained[epoch, row]
                assert all(map(torch.equal, ours, theirs))
                compared += 1
    assert compared >= 5


def test_each_view_says_what_was_drawn_for_it() -> None:
    settings = settings_of(1, 8, replace(TURNED, blur_probability=(1.0, 0.0)))
    examples = make_examples(encoded(1, 8, 6), settings, count=6, epochs=4)
    said = {word.split()[0] for example in examples for v in example.views for word in v.words}
    assert said == {"crop", "flip", "rotated", "turned", "vertical", "jitter", "blur", "solarized"}
    for example in examples:
        for number, view in enumerate(example.views):
            assert any(word.startswith("blur") for word in view.words) == (number % 2 == 0)


def test_unreadable_images_are_passed_over_and_the_others_keep_their_views() -> None:
    settings, images = settings_of(2, 16, TURNED), encoded(2, 16)
    whole = make_examples(images, settings, count=3, epochs=1)
    broken = make_examples(
        [images[0], ("bad", b"no image"), images[2]], settings, count=3, epochs=1
    )
    assert [example.name for example in broken] == ["scan 0", "scan 2"]
    for view, same in zip(broken[1].views, whole[2].views, strict=True):
        assert np.array_equal(view.levels, same.levels)


def test_a_sheet_of_nothing_readable_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing to show"):
        write_sheet([("bad", b"no image")], settings_of(1, 8, TURNED), tmp_path / "views.png")


@pytest.mark.parametrize(
    ("channels", "bits", "words"),
    [
        (1, 8, []),
        (3, 8, []),
        (2, 8, ["mean of 2 channels"]),
        (5, 16, ["channels 1 to 3 of 5 as red, green, blue"]),
    ],
)
def test_images_of_any_kind_are_shown_and_the_title_says_how(
    channels: int, bits: Literal[8, 16], words: Sequence[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    texts, write = list[str](), Axes.text

    def noted(axes: Axes, x: float, y: float, text: str, **options: Any) -> Any:
        texts.append(text)
        return write(axes, x, y, text, **options)

    monkeypatch.setattr(Axes, "text", noted)
    images = encoded(channels, bits)
    if (channels, bits) == (3, 8):
        rgb = [Image.fromarray(picture(3, 8, height=40 + i)) for i in range(3)]
        for i, image in enumerate(rgb):
            image.save(tmp_path / f"{i}.png")
            images[i] = (f"scan {i}", (tmp_path / f"{i}.png").read_bytes())
    file, settings = tmp_path / "views.png", settings_of(channels, bits, TURNED)
    assert write_sheet(images, settings, file, count=2, pairs=2) == 2
    assert texts[0].split(" · ")[1:] == words
    assert texts[1:6] == ["image", "A, epoch 1", "B, epoch 1", "A, epoch 2", "B, epoch 2"]
    assert "scan 0" in texts
    with Image.open(file) as written:
        assert np.asarray(written.convert("RGB")).std() > 20


def test_dark_deep_images_are_brightened_and_the_title_says_so() -> None:
    """12 bits of 16, as scanners write them."""
    dark = (picture(1, 16) // 16).astype(np.uint16)
    assert to_rgb(dark, int(dark.max())).max() == 255
    assert to_rgb(dark, 65535).max() <= 16
    assert _ways(dark, int(dark.max())) == ["brightened 16.0 times"]


def test_the_caption_tells_the_settings() -> None:
    settings = settings_of(3, 16, replace(TURNED, crop_min_px=24))
    assert describe_views(settings) == (
        "Every view: crop of 8% to 100%, at least 24 px, flip 50%, vertical flip 50%, quarter "
        "turns, rotated by up to 20°, jitter 80% (brightness 0.4, contrast 0.4, saturation 0.2, "
        "hue 0.1), grey 20%. A: blur 100% · B: blur 10%, solarized 20%."
    )
    bare = override(
        settings_of(1, 8, TURNED.without("jitter", "blur", "solarize", "flip")),
        {"views.rotation_degrees": 0.0, "views.quarter_turns": False},
    )
    assert describe_views(bare) == (
        "Every view: crop of 8% to 100%, vertical flip 50%. A: neither blur nor solarization · "
        "B: neither blur nor solarization."
    )


@pytest.mark.parametrize("kind", ["crops", "jigsaw"])
def test_smaller_views_are_shown_beside_the_two(
    kind: Literal["crops", "jigsaw"], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each epoch in one picture, those that a run trains on; the caption says what they are."""
    views = replace(TURNED, small_count=9, small_px=6, small_kind=kind, small_crop_area=(0.6, 1.0))
    settings, images = settings_of(1, 8, views), encoded(1, 8)
    shown: dict[str, Any] = {}
    monkeypatch.setattr(sheet, "draw_views", lambda rows, **said: shown.update(said, rows=rows))
    write_sheet(images, settings, tmp_path / "views.png", pairs=2)
    step = step_of([picture(1, 8, height=40 + i) for i in range(3)])
    columns = make_views(step, settings, 1)
    assert shown["headings"][1:4] == ["A, epoch 1", "B, epoch 1", "smaller, epoch 1"]
    assert len(shown["headings"]) == 7
    for i, row in enumerate(shown["rows"]):
        assert len(row.pictures) == len(row.words) == 7
        small = [*columns["small"][i].transpose(0, 2, 3, 1)]
        assert np.array_equal(row.pictures[3], join_views(small))
        assert not np.array_equal(row.pictures[3], row.pictures[6])
        assert row.words[3].count("crop") == 9
    assert shown["title"].endswith("views of 20 pixels, 9 smaller ones of 6")
    words = {"crops": "crops of 60% to 100%;", "jigsaw": "patches of one crop of 60% to 100%"}
    assert words[kind] in shown["caption"]


@pytest.mark.parametrize(("count", "across"), [(1, 1), (2, 2), (6, 3), (9, 3)])
def test_joined_views_lie_row_after_row_in_a_square(count: int, across: int) -> None:
    views = [np.full((30, 30, 1), 10 + i, np.uint8) for i in range(count)]
    joined = join_views(views)
    assert joined.shape == (32 * across - 2, 32 * across - 2, 1)
    for i in range(count):
        assert joined[i // across * 32, i % across * 32, 0] == 10 + i
        assert (joined == 10 + i).sum() >= 900


def test_a_run_s_sheet_shows_six_images_of_its_shards(
    small_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Row] = []
    monkeypatch.setattr(sheet, "draw_views", lambda rows, **_: shown.extend(rows))
    write_sheet_of_shards(small_settings.data.train, small_settings, tmp_path / "views.png")
    names = [name for name, _ in first_rows(small_settings)][:6]
    assert [row.words[0] for row in shown] == names
    assert {len(row.pictures) for row in shown} == {7}
