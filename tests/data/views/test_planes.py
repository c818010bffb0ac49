"""Views of images with any number of channels, of 8 or 16 bits: against Pillow and plain NumPy."""

import io
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from bt_ray.config import DataSettings, Settings, ViewSettings
from bt_ray.data.stream.batches import to_batch
from bt_ray.data.stream.decode import make_views
from bt_ray.data.views import planes
from bt_ray.data.views.draw import BRIGHTNESS, CONTRAST, ViewParameters
from bt_ray.data.views.photometry import apply_photometry, tabulate
from bt_ray.data.views.photometry.table import NEVER, Column
from bt_ray.data.views.reference import BOX_PASSES, extended_box
from tests.data.views.test_views import draw

MUCH = ViewSettings(
    image_px=20, jitter_probability=0.9, jitter_hue=0.4, blur_probability=(0.6, 0.6),
    blur_sigma_px=(0.1, 3.0), solarize_probability=(0.4, 0.4), vertical_flip_probability=0.5,
    quarter_turns=True, rotation_degrees=30.0,
)  # fmt: skip
KINDS = [(1, 8), (1, 16), (2, 8), (3, 16), (4, 8), (7, 16)]
"""Channels and bits of images that are not 8-bit RGB."""


def picture(channels: int, bits: int, *, height: int = 40, width: int = 33) -> NDArray[Any]:
    """Smooth, with an edge; every channel another."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    shades = [0.5 + 0.5 * np.sin((2 + c) * x + 3 * y * c) * (x > 0.2) for c in range(channels)]
    levels = np.rint(np.stack(shades, axis=2) * (2**bits - 1))
    return levels.astype(np.uint8 if bits == 8 else np.uint16)


def settings_of(channels: int, bits: Literal[8, 16], views: ViewSettings = MUCH) -> Settings:
    data = DataSettings(train="x", channels=channels, bit_depth=bits, global_batch=8)
    return Settings(name="planes", data=data, views=views)


def step_of(images: list[NDArray[Any]]) -> pa.Table:
    """A step's rows, one NumPy file each."""
    encoded = []
    for image in images:
        buffer = io.BytesIO()
        np.save(buffer, image)
        encoded.append(buffer.getvalue())
    numbers = np.arange(len(images))
    return pa.table(
        {
            "row": numbers, "image": encoded, "slot": numbers, "step": np.zeros_like(numbers),
            "width": [i.shape[1] for i in images], "height": [i.shape[0] for i in images],
        }
    )  # fmt: skip


@pytest.mark.parametrize(("channels", "bits"), KINDS)
def test_a_loader_and_a_device_finish_views_to_the_same_levels(
    channels: int, bits: Literal[8, 16]
) -> None:
    """Image by image beside the decoder, or as a batch: exactly the same, in the images' type."""
    step = step_of([picture(channels, bits, height=30 + i) for i in range(8)])
    finished = []
    for way in ("loader", "device"):
        settings = settings_of(channels, bits, replace(MUCH, photometry=way))  # type: ignore[arg-type]
        batch = to_batch(make_views(step, settings, 1), settings, 1, torch.device("cpu"))
        finished.append(batch.views)
    unfinished = make_views(step, settings, 1)["view_a"]
    for one, other in zip(*finished, strict=True):
        assert one.dtype == (torch.uint8 if bits == 8 else torch.uint16)
        assert one.shape == (8, channels, 20, 20)
        assert torch.equal(one.int(), other.int())
    assert (finished[0][0].numpy() != unfinished).any(axis=(1, 2, 3)).sum() >= 5


@pytest.mark.parametrize(("channels", "bits"), KINDS)
def test_a_crop_is_pillows_of_each_channel(channels: int, bits: int) -> None:
    """Bicubic, antialiased, in floats, rounded to whole levels; flipped where it was drawn so."""
    image, parameters = picture(channels, bits), draw(count=20, size=(33, 40))
    for row in range(20):
        left, top = parameters.crop_left[row], parameters.crop_top[row]
        right = left + parameters.crop_width[row]
        bottom = top + parameters.crop_height[row]
        cropped = planes.crop(image, parameters, row, 16)
        assert cropped.dtype == image.dtype
        for channel in range(channels):
            box = Image.fromarray(image[top:bottom, left:right, channel].astype(np.float32))
            expected = np.asarray(box.resize((16, 16), Image.Resampling.BICUBIC))
            expected = expected.clip(0, 2**bits - 1)
            found = cropped[:, ::-1, channel] if parameters.flip[row] else cropped[..., channel]
            assert np.abs(found - expected).max() < 0.5 + 2e-6 * 2**bits


def naive(view: NDArray[Any], p: ViewParameters, row: int, threshold: int) -> NDArray[np.float64]:
    """Brightness, contrast, blur and solarization of (h, w, c), an operation after the other."""
    highest = np.iinfo(view.dtype).max
    x = view.astype(np.float64)
    if p.jitter[row]:
        for change in p.jitter_order[row]:
            if change == BRIGHTNESS:
                x = np.floor((x * p.brightness[row]).clip(0, highest))
            elif change == CONTRAST:
                mean = np.floor(x.mean() + 0.5)
                x = np.floor((mean + p.contrast[row] * (x - mean)).clip(0, highest))
    if p.blur_sigma_px[row]:
        box = extended_box(float(p.blur_sigma_px[row]))
        reach = len(box) // 2
        for axis in (1, 1, 1, 0, 0, 0):
            pads = [(reach, reach) if a == axis else (0, 0) for a in range(3)]
            padded = np.pad(x, pads, mode="edge")
            taps = [np.take(padded, range(t, t + x.shape[axis]), axis) for t in range(len(box))]
            x = np.rint(sum(w * tap for w, tap in zip(box, taps, strict=True)))
    if p.solarize[row]:
        x = np.where(x < threshold * (highest // 255), x, highest - x)
    return x


@pytest.mark.parametrize(("channels", "bits"), [(1, 8), (1, 16), (5, 8), (5, 16)])
def test_photometry_without_colours_is_brightness_contrast_blur_and_solarization(
    channels: int, bits: int
) -> None:
    """Whatever is drawn of saturation, hue and grey; one level apart where floats round so."""
    assert BOX_PASSES == 3
    parameters, view = draw(MUCH, count=30), picture(channels, bits, width=40)
    changed = 0
    for row in range(30):
        found = planes.photometry(view, parameters, row, 128)
        expected = naive(view, parameters, row, 128)
        off = np.abs(found - expected)
        assert off.max() <= (1 if bits == 8 else 4) or (
            parameters.solarize[row] and np.mean(off > 4) < 0.01  # at the threshold's very edge
        )
        changed += int((found != view).any())
    assert changed > 20


def test_16_bits_of_8_bit_levels_look_the_same() -> None:
    """The same picture in 257 times the levels: what 8 bits cut off at each operation is between.

    Without solarization, which inverts what lies at its edge.
    """
    view = picture(3, 8, width=40)
    drawn = replace(draw(MUCH, count=30), solarize=np.zeros(30, np.bool_))
    shallow = torch.from_numpy(view.transpose(2, 0, 1).copy())[None].repeat(30, 1, 1, 1)
    deep = torch.from_numpy(shallow.numpy().astype(np.uint16) * np.uint16(257))
    low = apply_photometry(shallow, tabulate(drawn, 128)).float()
    high = apply_photometry(deep, tabulate(drawn, 128, highest_level=65535)).float() / 257
    assert (low - high).abs().mean(dim=(1, 2, 3)).max() < 3
    assert (low - shallow.float()).abs().mean() > 10


def test_a_table_for_other_than_three_channels_holds_no_colours() -> None:
    parameters = draw(MUCH, count=50)
    for channels in (1, 4):
        table = tabulate(parameters, 100, channels=channels, highest_level=65535)
        assert set(table[:, :4].ravel()) == {-1, BRIGHTNESS, CONTRAST}
        assert not table[:, Column.GRAYSCALE].any()
        threshold = set(table[:, Column.SOLARIZE_FROM])
        assert threshold == {100 * 257, NEVER}


def test_photometry_of_an_image_is_that_in_any_batch() -> None:
    """Means are exact: large views of 16 bits, alone and among others."""
    random = np.random.default_rng(0)
    levels = torch.from_numpy(random.integers(0, 65536, (6, 2, 150, 150), dtype=np.uint16))
    drawn = tabulate(draw(MUCH, count=6), 128, channels=2, highest_level=65535)
    together = apply_photometry(levels, drawn).int()
    for row in range(6):
        one = slice(row, row + 1)
        assert torch.equal(apply_photometry(levels[one], drawn[one]).int(), together[one])
