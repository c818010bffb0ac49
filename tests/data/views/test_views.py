import io

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import functional as reference

from bt_ray.config import ViewSettings
from bt_ray.data.views import draw as drawing
from bt_ray.data.views import reference as views
from bt_ray.data.views.draw import ViewParameters
from bt_ray.data.views.photometry import apply_photometry, tabulate
from tests.conftest import shared_zip

COUNT = 20_000
SETTINGS = ViewSettings()


def draw(
    settings: ViewSettings = SETTINGS, *, count: int = COUNT, view: int = 0, epoch: int = 0,
    first: int = 0, size: tuple[int, int] = (500, 375),
) -> ViewParameters:  # fmt: skip
    samples = np.arange(first, first + count)
    return drawing.draw(
        settings, seed=0, epoch=epoch, view=view, samples=samples,
        widths=np.full(count, size[0]), heights=np.full(count, size[1]),
    )  # fmt: skip


def test_parameters_depend_on_seed_epoch_sample_and_view_alone() -> None:
    whole, part = draw(count=100), draw(count=10, first=50)
    assert np.array_equal(whole.brightness[50:60], part.brightness)
    assert np.array_equal(whole.crop_left[50:60], part.crop_left)
    assert not np.array_equal(whole.hue, draw(count=100, epoch=1).hue)
    assert not np.array_equal(whole.hue, draw(count=100, view=1).hue)


def test_probabilities_are_those_of_each_view() -> None:
    first, second = draw(view=0), draw(view=1)
    for drawn, expected in (
        (first.flip, 0.5),
        (first.jitter, 0.8),
        (first.grayscale, 0.2),
        (first.blur_sigma_px > 0, 1.0),
        (second.blur_sigma_px > 0, 0.1),
        (first.solarize, 0.0),
        (second.solarize, 0.2),
    ):
        assert abs(np.mean(drawn) - expected) < 4 * np.sqrt(0.25 / COUNT)


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("brightness", 0.6, 1.4),
        ("contrast", 0.6, 1.4),
        ("saturation", 0.8, 1.2),
        ("hue", -0.1, 0.1),
        ("blur_sigma_px", 0.1, 2.0),
    ],
)
def test_factors_are_uniform(name: str, low: float, high: float) -> None:
    values = np.sort(getattr(draw(), name))
    expected = np.linspace(low, high, COUNT)
    assert np.abs(values - expected).max() < 2 * (high - low) / np.sqrt(COUNT)


def test_every_order_of_the_jitter_is_as_likely() -> None:
    _, counts = np.unique(draw().jitter_order, axis=0, return_counts=True)
    assert len(counts) == 24
    assert np.abs(counts - COUNT / 24).max() < 5 * np.sqrt(COUNT / 24)


@pytest.mark.parametrize("size", [(500, 375), (32, 32), (900, 100), (100, 900)])
def test_crops_are_distributed_as_torchvisions(size: tuple[int, int]) -> None:
    count = 4000
    ours = draw(count=count, size=size)
    blank = torch.empty(3, size[1], size[0])
    torch.manual_seed(0)
    theirs = np.array(
        [RandomResizedCrop.get_params(blank, (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(count)]
    )
    mine = (ours.crop_top, ours.crop_left, ours.crop_height, ours.crop_width)
    for column, values in enumerate(mine):
        both = np.concatenate([values, theirs[:, column]])
        distance = max(
            abs(np.mean(values <= x) - np.mean(theirs[:, column] <= x)) for x in np.unique(both)
        )
        assert distance < 1.95 * np.sqrt(2 / count)  # Kolmogorov–Smirnov, p = 0.001


def test_crops_lie_within_the_image() -> None:
    for size in ((500, 375), (1, 1), (3, 1000)):
        p = draw(count=500, size=size)
        assert (p.crop_left >= 0).all()
        assert (p.crop_left + p.crop_width <= size[0]).all()
        assert (p.crop_top + p.crop_height <= size[1]).all()
        assert (p.crop_width > 0).all()
        assert (p.crop_height > 0).all()


def pictures() -> list[Image.Image]:
    return [Image.fromarray(image) for image in load_sample_images().images]


def test_jitter_equals_torchvisions() -> None:
    """Each of the four changes, against torchvision's functions for Pillow images."""
    changes = (
        (drawing.BRIGHTNESS, "brightness", reference.adjust_brightness),
        (drawing.CONTRAST, "contrast", reference.adjust_contrast),
        (drawing.SATURATION, "saturation", reference.adjust_saturation),
        (drawing.HUE, "hue", reference.adjust_hue),
    )
    base = {
        "jitter_probability": 1.0, "grayscale_probability": 0.0, "blur_probability": (0.0, 0.0),
        "solarize_probability": (0.0, 0.0), "jitter_brightness": 0.0, "jitter_contrast": 0.0,
        "jitter_saturation": 0.0, "jitter_hue": 0.0,
    }  # fmt: skip
    for _, name, function in changes:
        settings = ViewSettings(**{**base, f"jitter_{name}": 0.1})  # type: ignore[arg-type]
        parameters = draw(settings, count=4)
        for row, picture in enumerate(pictures() * 2):
            got = views.photometry(picture, parameters, row, 128)
            expected = function(picture, float(getattr(parameters, name)[row]))
            assert np.array_equal(np.asarray(got), np.asarray(expected)), name


def difference(crops: list[Image.Image], parameters: ViewParameters) -> np.ndarray:  # type: ignore[type-arg]
    """Absolute difference, (n, 3, px, px), of batched and reference photometry."""
    expected = [np.asarray(views.photometry(c, parameters, i, 128)) for i, c in enumerate(crops)]
    levels = torch.from_numpy(np.stack([np.asarray(c) for c in crops]).transpose(0, 3, 1, 2).copy())
    got = apply_photometry(levels, tabulate(parameters, 128)).numpy().astype(np.float32)
    return np.abs(got - np.stack(expected).transpose(0, 3, 1, 2))


@pytest.mark.parametrize("view", [0, 1])
def test_batched_photometry_is_pillows(view: int) -> None:
    crops = [p.resize((96, 96)) for p in pictures()] * 16
    off = difference(crops, draw(count=len(crops), view=view))
    assert off.mean(axis=(1, 2, 3)).max() <= 1
    assert np.percentile(off, 99.9) <= 8


def test_batched_photometry_is_pillows_on_imagenet() -> None:
    with shared_zip("imagenet-sample.zip") as archive:
        names = archive.namelist()[::20]
        images = [Image.open(io.BytesIO(archive.read(name))).convert("RGB") for name in names]
    for view in (0, 1):
        parameters = drawing.draw(
            SETTINGS, seed=0, epoch=0, view=view, samples=np.arange(len(images)),
            widths=np.array([i.width for i in images]),
            heights=np.array([i.height for i in images]),
        )  # fmt: skip
        crops = [views.crop(image, parameters, i, 224) for i, image in enumerate(images)]
        off = difference(crops, parameters)
        assert off.mean(axis=(1, 2, 3)).max() <= 1
        assert np.percentile(off, 99.9) <= 8


def test_photometry_leaves_its_input_alone() -> None:
    levels = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8)
    before = levels.clone()
    apply_photometry(levels, tabulate(draw(count=8), 128))
    assert torch.equal(levels, before)


def test_central_view_keeps_the_shape_and_cuts_large_images() -> None:
    ramp = Image.fromarray(np.tile(np.arange(0, 200, dtype=np.uint8), (400, 1)))
    assert views.central(ramp, 100).size == (100, 100)
    assert np.asarray(views.central(ramp, 100)).min() > 5  # the border is cut off
    assert np.asarray(views.central(ramp, 200)).min() == 0  # a small image is not
