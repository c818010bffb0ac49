"""Makes views image by image with Pillow, as the paper's own code does: the reference.

It applies the parameters that `views.draw` drew, which is deterministic. `views.fast` does the same
on a CPU in a third of the time. `views.photometry` does the part after the crop, for a whole batch,
on any device. Both agree with this reference up to the rounding of levels.
"""

import io
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from bt_ray.data.views.arrays import HEAD_BYTES, is_array, read_array
from bt_ray.data.views.channels import fit_channels
from bt_ray.data.views.depth import decode_deep, has_deep_colours, is_tiff, to_levels
from bt_ray.data.views.draw import BRIGHTNESS, CONTRAST, SATURATION, ViewParameters
from bt_ray.data.views.limits import MOST_PIXELS as MOST_PIXELS
from bt_ray.data.views.png import without_notes

BOX_PASSES = 3
OF_DAMAGED_FILES = (
    OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, ArithmeticError,
    RuntimeError, struct.error, zlib.error,
)  # fmt: skip
"""What Pillow raises of them."""


def decode(encoded: Any) -> Image.Image:
    """The image in a buffer of bytes, as RGB.

    An animation gives its first frame, and more than 8 bits are brought to 8 (`depth.to_levels`).
    Transparency is dropped, and the camera's orientation tag (EXIF) is ignored, as in the paper's
    pipeline.

    Raises: OSError if it cannot be decoded, or has more pixels than Pillow's limit.
    """
    try:
        return _decode(encoded)
    except (Image.DecompressionBombError, *OF_DAMAGED_FILES) as error:
        if is_array(bytes(memoryview(encoded)[:HEAD_BYTES])):
            return Image.fromarray(fit_channels(to_levels(read_array(encoded, 3)), 3))
        if is_tiff(encoded) and not isinstance(error, Image.DecompressionBombError):
            deep = decode_deep(encoded)
            if deep is not None:
                return deep
        raise OSError(str(error)) from error


def open_image(encoded: Any) -> Image.Image:
    """The image, of which only the header is read yet. Raises: what Pillow raises."""
    try:
        return Image.open(io.BytesIO(encoded))
    except OF_DAMAGED_FILES:
        bare = without_notes(encoded)
        if bare is None:
            raise
        return Image.open(io.BytesIO(bare))


def load(image: Image.Image, encoded: Any) -> Image.Image:
    """The opened image with its pixels. Raises: what Pillow raises."""
    try:
        image.load()
    except OF_DAMAGED_FILES:
        bare = without_notes(encoded)  # there may be more of them behind the pixels
        if bare is None:
            raise
        image = Image.open(io.BytesIO(bare))
        image.load()
    return image


def _decode(encoded: Any) -> Image.Image:
    image = open_image(encoded)
    if has_deep_colours(image) and (deep := decode_deep(encoded)) is not None:
        return deep
    image = load(image, encoded)
    if image.mode.startswith(("I", "F")):
        image = Image.fromarray(to_levels(np.asarray(image)))
    elif image.mode == "P" and isinstance(image.info.get("transparency"), bytes):
        image = image.convert("RGBA")
    return image.convert("RGB")


def crop(image: Image.Image, parameters: ViewParameters, row: int, image_px: int) -> Image.Image:
    """The crop of view `row`, resized (bicubic, antialiased) to `image_px`², and flipped or not."""
    left, top = int(parameters.crop_left[row]), int(parameters.crop_top[row])
    right, bottom = left + int(parameters.crop_width[row]), top + int(parameters.crop_height[row])
    view = image.crop((left, top, right, bottom)).resize(
        (image_px, image_px), Image.Resampling.BICUBIC
    )
    return view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if parameters.flip[row] else view


def photometry(
    view: Image.Image, parameters: ViewParameters, row: int, solarize_threshold: int
) -> Image.Image:
    """View `row`, in RGB, after colour jitter, greyscale, blur and solarization."""
    if parameters.jitter[row]:
        for change in parameters.jitter_order[row]:
            if change == BRIGHTNESS:
                view = ImageEnhance.Brightness(view).enhance(float(parameters.brightness[row]))
            elif change == CONTRAST:
                view = ImageEnhance.Contrast(view).enhance(float(parameters.contrast[row]))
            elif change == SATURATION:
                view = ImageEnhance.Color(view).enhance(float(parameters.saturation[row]))
            elif parameters.hue[row]:
                view = _shift_hue(view, float(parameters.hue[row]))
    if parameters.grayscale[row]:
        view = ImageOps.grayscale(view).convert("RGB")
    if parameters.blur_sigma_px[row]:
        view = view.filter(ImageFilter.GaussianBlur(float(parameters.blur_sigma_px[row])))
    if parameters.solarize[row]:
        view = ImageOps.solarize(view, solarize_threshold)
    return view


def _shift_hue(view: Image.Image, turns: float) -> Image.Image:
    """As torchvision does for Pillow images: the 8-bit hue channel wraps around."""
    hue, saturation, value = view.convert("HSV").split()
    shifted = np.asarray(hue) + np.uint8(int(turns * 255) % 256)
    return Image.merge("HSV", (Image.fromarray(shifted), saturation, value)).convert("RGB")


def extended_box(sigma_px: float) -> NDArray[np.float64]:
    """Taps of a box filter with fractional edges; `BOX_PASSES` of it have variance σ².

    Source: Gwosdek et al. 2011, "Theoretical foundations of Gaussian convolution by extended
    box filtering", as in Pillow.
    """
    variance = sigma_px**2 / BOX_PASSES
    inner = int((np.sqrt(12 * variance + 1) - 1) / 2)
    edge = (2 * inner + 1) * (inner * (inner + 1) - 3 * variance)
    edge /= 6 * (variance - (inner + 1) ** 2)
    taps: NDArray[np.float64] = np.concatenate([[edge], np.ones(2 * inner + 1), [edge]])
    return taps / (2 * (inner + edge) + 1)


def central(image: Image.Image, image_px: int) -> Image.Image:
    """The view used for evaluation: shorter side to 8/7 of `image_px`, then the central square.

    Source: the usual ImageNet protocol (resize 256, centre crop 224); images no larger than
    a view's 8/7, such as CIFAR's, are only resized, without losing their border.
    """
    side = min(image.size)
    box_side = side * 7 / 8 if side > image_px * 8 / 7 else side
    left, top = (image.width - box_side) / 2, (image.height - box_side) / 2
    return image.resize(
        (image_px, image_px),
        Image.Resampling.BICUBIC,
        box=(left, top, left + box_side, top + box_side),
    )
