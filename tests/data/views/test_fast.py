"""Views made fast, or on the device, are the reference's: image by image, for the whole chain."""

import io
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from bt_ray.config import Settings, Transformation, ViewSettings
from bt_ray.data.shards.shard_file import to_table
from bt_ray.data.sources import SourceImage
from bt_ray.data.stream.batches import to_batch
from bt_ray.data.stream.decode import make_views
from bt_ray.data.views import fast, reference
from bt_ray.presets import preset
from tests.conftest import shared_zip
from tests.data.views.test_views import draw

REFERENCE = ViewSettings(backend="reference", photometry="loader")
WAYS = {
    "fast": ViewSettings(backend="fast", photometry="loader"),
    "fast, then device": ViewSettings(backend="fast", photometry="device"),
    "reference, then device": ViewSettings(backend="reference", photometry="device"),
}


def imagenet(every: int) -> Iterator[pa.Table]:
    """Real JPEGs as rows of steps of fifty."""
    with shared_zip("imagenet-sample.zip") as archive:
        encoded = [archive.read(n) for n in sorted(archive.namelist()) if n.endswith(".JPEG")]
    encoded = encoded[::every]
    for first in range(0, len(encoded), 50):
        yield as_step(encoded[first : first + 50], first)


def as_step(encoded: list[bytes], first: int = 0) -> pa.Table:
    table = to_table(tuple(SourceImage(str(i), e, None) for i, e in enumerate(encoded)))
    rows = pa.array(np.arange(first, first + len(encoded)))
    step = pa.array(np.zeros(len(encoded), np.int64))
    return table.append_column("row", rows).append_column("slot", rows).append_column("step", step)


def finished(step: pa.Table, way: ViewSettings) -> NDArray[np.float32]:
    """Both views of each image after photometry, a row of levels each."""
    settings: Settings = replace(preset("images"), views=way)
    batch = to_batch(make_views(step, settings, 1), settings, 1, torch.device("cpu"))
    return np.concatenate([view.numpy().astype(np.float32).reshape(len(step), -1)
                           for view in batch.views])  # fmt: skip


def assert_alike(step: pa.Table, way: ViewSettings) -> None:
    """On average within a level of 255, and within 8 at the 99.9th percentile, each view."""
    off = np.abs(finished(step, way) - finished(step, replace(REFERENCE, image_px=way.image_px)))
    assert off.mean(axis=1).max() <= 1
    assert np.percentile(off, 99.9, axis=1).max() <= 8


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_every_way_makes_the_reference_s_views(way: ViewSettings) -> None:
    for step in imagenet(every=20):
        assert_alike(step, way)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_every_way_makes_the_reference_s_views_of_a_thousand_images(way: ViewSettings) -> None:
    for step in imagenet(every=1):
        assert_alike(step, way)


@pytest.mark.parametrize("image_px", [32, 64, 100])
def test_views_of_any_size_are_the_reference_s(image_px: int) -> None:
    for step in imagenet(every=50):
        assert_alike(step, replace(WAYS["fast"], image_px=image_px))


def odd_images() -> dict[str, bytes]:
    levels = np.random.default_rng(0).integers(0, 255, (40, 30, 3), dtype=np.uint8)
    smooth = Image.fromarray(levels).resize((90, 60), Image.Resampling.BICUBIC)
    turned = Image.Exif()
    turned[0x0112] = 6  # to be shown rotated; the paper's pipeline does not look
    odd = {
        "grey": ("L", "JPEG", {}),
        "cmyk": ("CMYK", "JPEG", {}),
        "progressive": ("RGB", "JPEG", {"progressive": True}),
        "444": ("RGB", "JPEG", {"subsampling": 0}),
        "exif": ("RGB", "JPEG", {"exif": turned}),
        "palette": ("P", "GIF", {}),
        "alpha": ("RGBA", "PNG", {}),
        "webp": ("RGB", "WEBP", {}),
    }
    encoded = {}
    for name, (mode, kind, options) in odd.items():
        buffer = io.BytesIO()
        smooth.convert(mode).save(buffer, kind, **options)
        encoded[name] = buffer.getvalue()
    return encoded


@pytest.mark.parametrize("name", odd_images())
def test_odd_images_are_decoded_to_the_reference_s_levels(name: str) -> None:
    encoded = odd_images()[name]
    assert np.array_equal(fast.decode(encoded), np.asarray(reference.decode(encoded)))


def test_a_jpeg_of_a_shard_is_decoded_without_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    [step] = imagenet(every=200)
    expected = [np.asarray(reference.decode(encoded.as_buffer())) for encoded in step["image"]]
    monkeypatch.delattr(reference, "decode")
    for encoded, levels in zip(step["image"], expected, strict=True):
        assert np.array_equal(fast.decode(encoded.as_buffer()), levels)


@pytest.mark.parametrize("decode", [reference.decode, fast.decode])
def test_what_has_too_many_pixels_is_refused(
    decode: Callable[[bytes], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decompression bomb: a small file, an image that would fill the memory."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    monkeypatch.setattr(reference, "MOST_PIXELS", 2000)
    with pytest.raises(OSError, match="decompression bomb"):
        decode(odd_images()["444"])


@pytest.mark.parametrize("decode", [reference.decode, fast.decode])
def test_sixteen_bits_are_scaled_and_not_cut_off(decode: Callable[[bytes], object]) -> None:
    ramp = np.arange(0, 65536, 128, dtype=np.uint16).reshape(16, 32)
    buffer = io.BytesIO()
    Image.fromarray(ramp).save(buffer, "PNG")
    levels = np.asarray(decode(buffer.getvalue()))
    assert np.array_equal(levels, np.repeat((ramp >> 8)[..., None], 3, axis=2))


@pytest.mark.filterwarnings("error")
def test_a_transparent_palette_and_an_animation_are_decoded_without_a_word() -> None:
    frames = [Image.new("P", (9, 9), colour) for colour in (1, 2)]
    for frame in frames:
        frame.putpalette([200, 10, 20, 30, 40, 50, 60, 70, 80])
    animated, transparent = io.BytesIO(), io.BytesIO()
    frames[0].save(animated, "GIF", save_all=True, append_images=frames[1:])
    frames[0].save(transparent, "PNG", transparency=b"\x00\x80")
    for file in (animated, transparent):
        levels = np.asarray(fast.decode(file.getvalue()))
        assert (levels == (30, 40, 50)).all()


@pytest.mark.filterwarnings("ignore:.*EXIF:UserWarning", "ignore:Tag data:UserWarning")
@pytest.mark.parametrize("name", odd_images())
def test_whatever_is_damaged_either_decodes_or_raises_an_oserror(name: str) -> None:
    """Bytes overwritten, cut and doubled anywhere: Pillow's plugins raise errors of many kinds."""
    random, encoded = np.random.default_rng(0), odd_images()[name]
    refused = 0
    for _ in range(200):
        damaged = bytearray(encoded)
        place, length = random.integers(8, len(damaged)), random.integers(1, 40)
        new = random.bytes(int(random.integers(0, 40)))
        damaged[place : place + length] = new
        try:
            assert np.asarray(fast.decode(bytes(damaged))).ndim == 3
        except OSError:
            refused += 1
    assert refused > 10


@pytest.mark.parametrize("content", [b"", b"no image", b"\xff\xd8\xff\xe0 cut"])
def test_what_is_no_image_is_refused_as_pillow_does(content: bytes) -> None:
    with pytest.raises(OSError) as refusal:  # noqa: PT011 - its kind is compared
        reference.decode(content)
    with pytest.raises(type(refusal.value)):
        fast.decode(content)


def test_a_truncated_jpeg_is_refused_as_pillow_does() -> None:
    whole = odd_images()["progressive"]
    with pytest.raises(OSError, match="truncated"):
        fast.decode(whole[: len(whole) // 2])


REMOVED = {
    "crop": lambda p: (p.crop_width == 500) & (p.crop_height == 375),
    "flip": lambda p: ~p.flip,
    "jitter": lambda p: ~p.jitter,
    "grayscale": lambda p: ~p.grayscale,
    "blur": lambda p: p.blur_sigma_px == 0,
    "solarize": lambda p: ~p.solarize,
}


@pytest.mark.parametrize("view", [0, 1])
def test_each_transformation_can_be_left_out_and_the_others_are_drawn_as_before(view: int) -> None:
    before = draw(count=500, view=view)
    for removed in REMOVED:
        after = draw(ViewSettings().without(removed), count=500, view=view)  # type: ignore[arg-type]
        for name, is_absent in REMOVED.items():
            if name == removed:
                assert is_absent(after).all()
            else:
                assert np.array_equal(is_absent(after), is_absent(before)), name


def test_transformations_can_be_left_out_one_after_the_other() -> None:
    gone: list[Transformation] = []
    for name in ("grayscale", "jitter", "solarize", "blur", "flip", "crop"):
        gone.append(name)  # type: ignore[arg-type]
        parameters = draw(ViewSettings().without(*gone), count=200, view=1)
        for removed in gone:
            assert REMOVED[removed](parameters).all(), removed
