"""Images of any channels and bits become the levels that the settings want, or a sentence."""

import io
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from bt_ray.config import DataSettings, Pixels, Settings, ViewSettings, override
from bt_ray.data.views import fast
from bt_ray.data.views.raster import central_view, decode_raster, size_of
from bt_ray.data.views.reference import central, decode
from bt_ray.model.inputs import normalize
from tests.data.rasters import dicom, levels, npy, pages, pillow, tiff

FIVE = Pixels(channels=5, bit_depth=16)
GREY, GREY_16 = Pixels(channels=1), Pixels(channels=1, bit_depth=16)
RGB, RGB_16 = Pixels(), Pixels(bit_depth=16)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_five_channels_of_any_file_are_one_array(dtype: Any) -> None:
    """NumPy's files of either order, a TIFF of five samples, interleaved or not, five pages."""
    values = levels(dtype=dtype)
    planes = np.ascontiguousarray(np.moveaxis(values, 2, 0))
    files = (
        npy(values),
        npy(planes),
        npy(np.asfortranarray(values)),
        npy(values.astype(values.dtype.newbyteorder(">"))),
        tiff(values, photometric="minisblack", planarconfig="contig"),
        tiff(planes, photometric="minisblack", planarconfig="separate"),
        tiff(values, photometric="minisblack", planarconfig="contig", compression="zlib"),
        pages(values),
    )
    kept = Pixels(channels=5, bit_depth=8 if dtype == np.uint8 else 16)
    for content in files:
        assert decode_raster(content, kept).dtype == dtype
        assert np.array_equal(decode_raster(content, kept), values)
        assert size_of(content, kept) == (12, 9)


def test_16_bits_that_are_257_times_8_make_the_same_input() -> None:
    """The 16-bit set and the 8-bit set of the same grey pictures: levels in 257:1, inputs equal."""
    eight = levels(channels=1, dtype=np.uint8)[..., 0]
    of_16 = decode_raster(pillow(eight.astype(np.uint16) * 257), GREY_16)
    of_8 = decode_raster(pillow(eight), GREY)
    assert (of_16.dtype, of_8.dtype) == (np.uint16, np.uint8)
    assert np.array_equal(of_8[..., 0], eight)
    assert np.array_equal(of_16, of_8.astype(np.uint16) * 257)
    assert np.array_equal(of_16, decode_raster(pillow(eight), GREY_16)), "8 bits in a set of 16"

    def inputs(image: NDArray[Any], bits: Any) -> torch.Tensor:
        data = DataSettings(train="", channels=1, bit_depth=bits, mean=(0.4,), std=(0.2,))
        return normalize(torch.from_numpy(image.transpose(2, 0, 1))[None], data)

    torch.testing.assert_close(inputs(of_16, 16), inputs(of_8, 8))


def test_colour_becomes_grey_by_pillows_luma_and_grey_colour() -> None:
    colour = levels(channels=3, dtype=np.uint8)
    wanted = np.asarray(Image.fromarray(colour).convert("L"))
    for content in (pillow(colour), npy(colour), tiff(colour, photometric="rgb")):
        assert np.array_equal(decode_raster(content, GREY)[..., 0], wanted)
    deep = levels(channels=3)
    grey = decode_raster(tiff(deep, photometric="rgb"), GREY_16)[..., 0]
    assert np.abs(grey - deep @ np.array([0.299, 0.587, 0.114])).max() < 1
    assert np.array_equal(decode_raster(npy(deep[..., 0]), RGB_16), deep[..., [0, 0, 0]])


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bit_pngs_keep_their_channels_in_their_order(channels: int) -> None:
    values = levels(channels=channels)
    order = {1: [0], 2: [0, 0, 0, 1], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[channels]
    content = (
        cv2.imencode(".png", values[..., order])[1].tobytes()
        if channels != 2
        else _grey_alpha(values)
    )
    kept = decode_raster(content, Pixels(channels=channels, bit_depth=16))
    assert np.array_equal(kept, values)
    if channels > 2:
        assert np.array_equal(decode_raster(content, RGB_16), values[..., :3]), "no transparency"


def _grey_alpha(values: NDArray[Any]) -> bytes:
    import imagecodecs

    return bytes(imagecodecs.png_encode(values))


def test_transparency_is_a_channel_only_where_four_are_wanted() -> None:
    values = levels(channels=4, dtype=np.uint8)
    assert np.array_equal(decode_raster(pillow(values), Pixels(channels=4)), values)
    assert np.array_equal(decode_raster(pillow(values), RGB), values[..., :3])
    luma = Image.fromarray(values[..., :3]).convert("L")
    assert np.array_equal(decode_raster(pillow(values), GREY)[..., 0], np.asarray(luma))
    deep = levels(channels=4)
    content = tiff(deep, photometric="rgb", extrasamples=["unassalpha"])
    assert np.array_equal(decode_raster(content, RGB_16), deep[..., :3])
    assert np.array_equal(decode_raster(content, Pixels(channels=4, bit_depth=16)), deep)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_grey_is_pillows_of_every_mode(mode: str) -> None:
    picture = Image.fromarray(levels(channels=3, dtype=np.uint8)).convert(mode)
    buffer = io.BytesIO()
    picture.save(buffer, "TIFF" if mode in ("CMYK", "YCbCr") else "PNG")
    wanted = np.asarray(picture.convert("RGB").convert("L"))
    assert np.abs(decode_raster(buffer.getvalue(), GREY)[..., 0].astype(int) - wanted).max() <= 1


def test_floats_and_numbers_of_other_ranges() -> None:
    """From 0 to 1 to the whole range, others from smallest to largest, over all channels."""
    ramp = np.linspace(0, 1, 45, dtype=np.float32).reshape(3, 3, 5)
    for values in (ramp, ramp * 7e5 - 300, (ramp * 1e6).astype(np.int32)):
        for content in (npy(values), tiff(values, **INTERLEAVED)):
            found = decode_raster(content, FIVE)
            assert np.abs(found - ramp * 65535.0).max() <= 1
            eight = decode_raster(content, Pixels(channels=5))
            assert np.abs(eight - ramp * 255.0).max() <= 1
    assert decode_raster(npy(np.full((2, 2), 300, np.int64)), GREY_16).tolist()[0][0] == [300]
    assert decode_raster(npy(ramp[..., 4].astype(np.float16)), GREY_16).max() == 65535


def test_a_first_page_is_the_image_where_pages_are_not_its_channels() -> None:
    values = levels(channels=2)
    assert np.array_equal(decode_raster(pages(values), GREY_16)[..., 0], values[..., 0])
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:  # a preview beside the image
        writer.write(levels(1), photometric="minisblack", planarconfig="contig")
        writer.write(levels(channels=1, size=(3, 3))[..., 0], photometric="minisblack")
    assert np.array_equal(decode_raster(buffer.getvalue(), FIVE), levels(1))


def test_white_is_zero_of_a_tiff_is_inverted() -> None:
    values = levels(channels=1)[..., 0]
    content = tiff(values, photometric="miniswhite")
    assert np.array_equal(decode_raster(content, GREY_16)[..., 0], 65535 - values)


def test_dicoms_stored_numbers() -> None:
    """By the bits stored: with a sign, with low numbers bright, in frames, in colour."""
    stored = levels(channels=1)[..., 0] >> 4
    stored[0, 0] = 4095
    assert np.array_equal(decode_raster(dicom(stored, bits=12), GREY_16)[..., 0], stored)
    assert np.array_equal(decode_raster(dicom(stored, bits=12), GREY)[..., 0], stored >> 4)
    signed = stored.astype(np.int16) - 2048
    assert np.array_equal(decode_raster(dicom(signed, bits=12), GREY_16)[..., 0], stored)
    dark = dicom(stored, bits=12, PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal(decode_raster(dark, GREY_16)[..., 0], 4095 - stored)
    frames = np.ascontiguousarray(np.moveaxis(levels(), 2, 0))
    assert np.array_equal(decode_raster(dicom(frames), FIVE), levels())
    colour = levels(channels=3, dtype=np.uint8)
    assert np.array_equal(decode_raster(dicom(colour, bits=8), RGB), colour)
    assert size_of(dicom(stored, bits=12), GREY) == (12, 9)


def test_arrays_are_8_bit_rgb_too_where_that_is_wanted() -> None:
    """By either backend, as any other file."""
    colour = levels(channels=3, dtype=np.uint8)
    grey = levels(channels=1, dtype=np.uint8)[..., 0]
    for image in (np.asarray(decode(npy(colour))), fast.decode(npy(colour))):
        assert np.array_equal(image, colour)
    assert np.array_equal(np.asarray(decode(dicom(grey, bits=8))), grey[..., None].repeat(3, 2))


def test_a_usual_image_is_decoded_as_ever() -> None:
    for content in (
        pillow(levels(channels=3, dtype=np.uint8), "JPEG"),
        pillow(levels(channels=1)[..., 0]),
    ):
        assert np.array_equal(decode_raster(content, RGB), np.asarray(decode(content)))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_cameras_note_is_followed_where_that_is_wanted(orientation: int, kind: str) -> None:
    noted = Image.Exif()
    noted[0x0112] = orientation
    colour = levels(channels=3, dtype=np.uint8)
    content = pillow(colour, kind, exif=noted)
    plain = Image.open(io.BytesIO(content)).convert("RGB")
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB")
    for wanted, follow in ((plain, "ignored"), (upright, "exif")):
        for pixels in (Pixels(orientation=follow), Pixels(channels=1, orientation=follow)):  # type: ignore[arg-type]
            found = decode_raster(content, pixels)
            shown = wanted if pixels.channels == 3 else wanted.convert("L")
            assert np.array_equal(found.squeeze(), np.asarray(shown))
            assert size_of(content, pixels) == wanted.size


def test_a_cameras_note_in_a_16_bit_png_is_followed() -> None:
    noted = Image.Exif()
    noted[0x0112] = 6
    grey = levels(channels=1)[..., 0]
    content = pillow(grey, exif=noted)
    turned = decode_raster(content, Pixels(channels=1, bit_depth=16, orientation="exif"))
    assert np.array_equal(turned[..., 0], np.rot90(grey, -1))
    assert np.array_equal(decode_raster(content, GREY_16)[..., 0], grey)


INTERLEAVED = {"photometric": "minisblack", "planarconfig": "contig"}
LYING = npy(np.zeros((2, 2))).replace(b"(2, 2), }", b"(99999999, 99999999), }")[:200]
BAD: dict[str, tuple[bytes, Pixels, str]] = {
    "other channels, npy": (npy(levels(channels=4)), FIVE, r"shape \(9, 12, 4\).*channels=5"),
    "other channels, png": (
        pillow(levels(channels=4, dtype=np.uint8)), FIVE, "has 4 channels, and data.channels is 5"
    ),
    "other channels, tiff": (pages(levels(channels=4)), FIVE, "1 channel, and data.channels is 5"),
    "two of three": (npy(levels(channels=2)), RGB_16, "neither its first nor its last axis"),
    "objects": (npy(np.array([[{}]]), allow_pickle=True), GREY, "objects, not of numbers"),
    "words": (npy(np.array([["a"]])), GREY, "of <U1, not of numbers"),
    "empty": (npy(np.zeros((0, 4))), GREY, "empty array"),
    "one axis": (npy(np.zeros(4)), GREY, "two or three axes"),
    "four axes": (npy(np.zeros((1, 2, 3, 4))), GREY, "two or three axes"),
    "cut short": (npy(levels())[:-10], FIVE, "cut short"),
    "a header that lies": (LYING, GREY, "header|cut short"),
    "not a number": (tiff(np.full((4, 4), np.nan, np.float32)), GREY, "finite number"),
    "infinite": (npy(np.full((4, 4), np.inf)), GREY_16, "finite number"),
    "no pixels": (dicom(np.zeros((2, 2)), pixels=False), GREY, "a DICOM file without pixels"),
    "few frames": (dicom(np.zeros((4, 2, 2), np.uint16)), FIVE, "4 frames, and data.channels is 5"),
    "cut dicom": (dicom(levels(channels=1)[..., 0])[:-40], GREY_16, "pydicom cannot read it"),
    "cut tiff": (tiff(levels(), **INTERLEAVED)[:-300], FIVE, "tifffile"),
    "cut zipped tiff": (
        tiff(levels(size=(60, 50)), **INTERLEAVED, compression="zlib")[:-900], FIVE, "tifffile"
    ),
    "tiff of a volume": (
        tiff(levels(size=(32, 32), channels=16)[None], photometric="minisblack", volumetric=True,
             tile=(16, 16, 16)), FIVE, "axes"
    ),
    "text": (b"a story", FIVE, "cannot identify"),
    "nothing": (b"", FIVE, "cannot identify"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_such_image_is_told_in_a_sentence(name: str) -> None:
    content, pixels, words = BAD[name]
    with pytest.raises(OSError, match=words):
        decode_raster(content, pixels)


def test_a_picture_of_no_number_is_broken_as_rgb_too() -> None:
    with pytest.raises(OSError, match="finite number"):
        decode(tiff(np.full((4, 4), np.nan, np.float32)))


def test_dicom_without_pydicom_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pydicom", None)
    with pytest.raises(OSError, match=r"install bt-ray\[dicom\]"):
        decode_raster(dicom_bytes, GREY)


dicom_bytes = dicom(np.ones((2, 2), np.uint16))


def test_an_image_of_too_many_pixels_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bt_ray.data.views.limits.MOST_PIXELS", 100)
    for content in (npy(levels()), pages(levels()), dicom(np.moveaxis(levels(), 2, 0).copy())):
        with pytest.raises(OSError, match="12 × 9 pixels"):
            decode_raster(content, FIVE)


@pytest.mark.parametrize("size", [(90, 70), (20, 30)])
def test_the_evaluated_view(size: tuple[int, int]) -> None:
    """RGB's is as ever; of others each channel is resized as Pillow resizes it, to whole levels."""
    colour = levels(channels=3, dtype=np.uint8, size=size) // 4 + 96
    content = pillow(colour)
    usual = Settings(name="a", data=DataSettings(train=""), views=ViewSettings(image_px=32))
    wanted = np.asarray(central(Image.fromarray(colour), 32))
    assert np.array_equal(central_view(content, usual), wanted)
    five = override(usual, {"data.channels": 5, "data.bit_depth": 16})
    values = np.concatenate([colour, colour[..., :2]], axis=2).astype(np.uint16) * 257
    view = central_view(npy(values), five)
    assert (view.dtype, view.shape) == (np.uint16, (32, 32, 5))
    assert np.abs(view[..., :3] / 257.0 - wanted).max() <= 1.01, "8 bits round after each direction"
    for channel in range(5):
        plane = Image.fromarray(values[..., channel].astype(np.float32))
        alone = np.rint(np.asarray(central(plane, 32))).clip(0, 65535)
        assert np.array_equal(view[..., channel], alone)
