"""Pictures of more than 8 bits stay pictures, and notes in a PNG do not hide its pixels."""

import io
import struct
import zlib
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from bt_ray.data.shards.shard_file import fault_of, fit, has_more_bits
from bt_ray.data.views import fast
from bt_ray.data.views.depth import to_levels
from bt_ray.data.views.reference import decode

RAMP = np.linspace(0, 1, 32 * 32, dtype=np.float32).reshape(32, 32)
KINDS: dict[str, tuple[NDArray[Any], str]] = {
    "float from 0 to 1": (RAMP, ".tiff"),
    "float from 0 to 255": (RAMP * 254.5, ".tiff"),
    "float with negatives": (RAMP * 3000 - 1000, ".tiff"),
    "double": (RAMP.astype(np.float64) * 1e6, ".tiff"),
    "float, three channels": (np.dstack([RAMP] * 3), ".tiff"),
    "int32 of 8 bits": ((RAMP * 255).astype(np.int32), ".tiff"),
    "int32, a million": ((RAMP * 1e6).astype(np.int32), ".tiff"),
    "int16 with negatives": ((RAMP * 4000 - 1024).astype(np.int16), ".tiff"),
    "10 bits in 16": ((RAMP * 1023).astype(np.uint16), ".tiff"),
    "12 bits in 16": ((RAMP * 4095).astype(np.uint16), ".png"),
    "14 bits in 16": ((RAMP * 16383).astype(np.uint16), ".png"),
    "16 bits": ((RAMP * 65535).astype(np.uint16), ".png"),
    "12 bits, three channels": (np.dstack([(RAMP * 4095).astype(np.uint16)] * 3), ".png"),
    "12 bits, four channels": (np.dstack([(RAMP * 4095).astype(np.uint16)] * 4), ".png"),
    "12 bits, TIFF in colour": (np.dstack([(RAMP * 4095).astype(np.uint16)] * 3), ".tiff"),
    "12 bits, PPM": (np.dstack([(RAMP * 4095).astype(np.uint16)] * 3), ".ppm"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_ramp_of_any_depth_is_a_ramp_of_levels(kind: str) -> None:
    """As whole images and shrunk ones, by either backend; never black, and never in silence."""
    values, suffix = KINDS[kind]
    content = cv2.imencode(suffix, values)[1].tobytes()
    assert fault_of(content) is None
    assert has_more_bits(content)
    wanted = np.rint(RAMP * 255)
    for image in (np.asarray(decode(content)), fast.decode(content)):
        assert np.abs(image - wanted[..., None]).max() <= 1
    shrunk, size = fit(content, 16)
    assert size == (16, 16)
    assert np.asarray(decode(shrunk)).mean() == pytest.approx(127.5, abs=2)


def test_full_16_bits_are_shifted_as_ever() -> None:
    values = np.random.default_rng(0).integers(0, 65536, (40, 40, 3)).astype(np.uint16)
    values[0, 0] = 65535
    image = np.asarray(decode(cv2.imencode(".png", values[..., ::-1])[1].tobytes()))
    assert np.array_equal(image, values >> 8)


def test_the_rule_of_odd_values() -> None:
    assert to_levels(np.array([np.nan, 0.0, 0.5, 1.0])).tolist() == [0, 0, 128, 255]
    assert to_levels(np.full(3, -7.5)).tolist() == [128] * 3
    assert to_levels(np.array([0.0, 3.0, 255.0])).tolist() == [0, 3, 255]
    assert to_levels(np.zeros(2)).tolist() == [0, 0]
    assert to_levels(np.array([0, 200], np.int32)).tolist() == [0, 200]


def test_what_has_8_bits_is_no_deep_image() -> None:
    for mode, kind in (
        ("RGB", "PNG"),
        ("L", "TIFF"),
        ("P", "GIF"),
        ("CMYK", "JPEG"),
        ("RGB", "PPM"),
    ):
        buffer = io.BytesIO()
        Image.new(mode, (4, 4)).save(buffer, kind)
        assert not has_more_bits(buffer.getvalue())


def _png(**notes: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48), "red").save(buffer, "PNG", **notes)
    return buffer.getvalue()


def _noted(
    kind: bytes, content: bytes, *, late: bool = False, checksum: int | None = None
) -> bytes:
    """A PNG with one more chunk, before its pixels or behind them."""
    plain = _png()
    place = len(plain) - 12 if late else 33
    crc = zlib.crc32(kind + content) if checksum is None else checksum
    chunk = struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)
    return plain[:place] + chunk + plain[place:]


def _workflow() -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("workflow", "x" * 2_000_000, zip=True)
    info.add_itxt("prompt", "x" * 2_000_000, zip=True)
    return info


@pytest.mark.parametrize(
    "content",
    [
        _png(pnginfo=_workflow()),
        _png(icc_profile=b"\0" * 3_000_000),
        _noted(b"tEXt", b"k\0" + b"x" * 70_000_000),
        _noted(b"zTXt", b"k\0\0" + zlib.compress(b"x" * 3_000_000), late=True),
        _noted(b"tEXt", b"k\0value", checksum=1),
    ],
    ids=["texts", "profile", "much text", "behind the pixels", "damaged text"],
)  # fmt: skip
def test_a_png_with_large_or_damaged_notes_decodes(content: bytes) -> None:
    assert fault_of(content) is None
    assert fit(content, None) == (content, (64, 48))
    assert fit(content, 32)[1] == (32, 24)
    for image in (np.asarray(decode(content)), fast.decode(content)):
        assert (image == [255, 0, 0]).all()


def test_a_png_that_lacks_pixels_is_broken_still() -> None:
    assert fault_of(_png(pnginfo=_workflow())[:-60]) is not None
    assert fault_of(_png()[:40]) is not None
