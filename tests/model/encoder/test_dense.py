"""Grids of features of each kind of encoder, whose cells lie where the image's do."""

import pytest
import torch
from torch import Tensor, nn

from bt_ray.config import Settings, override
from bt_ray.errors import SettingsError
from bt_ray.model.encoder import build_encoder
from bt_ray.model.encoder.dense import dense_features
from bt_ray.model.weights import fingerprint
from bt_ray.presets import preset

KINDS = {
    "conv4": ({}, (256, 16)),
    "conv6": ({"data.channels": 2}, (256, 8)),
    "resnet18": ({"views.image_px": 128}, (512, 4)),
    "torchvision:convnext_tiny": ({}, (768, 2)),
    "torchvision:densenet121": ({"views.image_px": 128}, (1024, 4)),
    "timm:resnet18": ({"views.image_px": 128}, (512, 4)),
    "timm:vit_tiny_patch16_224": ({"model.patch_px": 8}, (192, 8)),
    "timm:vit_small_patch14_reg4_dinov2": ({"model.patch_px": 8}, (384, 8)),
    "timm:deit_tiny_distilled_patch16_224": ({"model.patch_px": 8}, (192, 8)),
    "timm:convnext_atto": ({}, (320, 2)),
    "timm:swin_tiny_patch4_window7_224": ({}, (768, 2)),
}
"""By encoder: other settings, and channels and side of its grid."""
PX = 64


def settings_of(encoder: str, **changes: object) -> Settings:
    return override(preset("images"), {"model.encoder": encoder, "views.image_px": PX} | changes)


@torch.no_grad()
def assert_cells_lie_where_the_image_does(dense: nn.Module, channels: int, px: int) -> None:
    """What a bright quarter of an image changes in its features is most in that quarter."""
    images = torch.randn(1, channels, px, px).mul(0.1).repeat(5, 1, 1, 1)
    half = px // 2
    quarters = [(row, column) for row in range(2) for column in range(2)]
    for image, (row, column) in zip(images[1:], quarters, strict=True):
        image[:, row * half : (row + 1) * half, column * half : (column + 1) * half] += 2
    found = dense(images)
    changed = (found[1:] - found[:1]).square().sum(1)
    side = changed.shape[1] // 2
    of_quarter = changed.unflatten(1, (2, side)).unflatten(3, (2, side)).sum((2, 4)).flatten(1)
    assert of_quarter.argmax(1).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("name", KINDS)
def test_cells_lie_where_the_images_do(name: str) -> None:
    changes, (channels, side) = KINDS[name]
    settings = settings_of(name, **changes)
    encoder = build_encoder(settings).eval()
    before = fingerprint(encoder)
    dense = dense_features(encoder, settings)
    px = settings.views.image_px
    images = torch.randn(2, settings.data.channels, px, px)
    with torch.no_grad():
        assert dense(images).shape == (2, channels, side, side)
    assert_cells_lie_where_the_image_does(dense, settings.data.channels, px)
    assert fingerprint(encoder) == before
    assert not encoder.training


@pytest.mark.parametrize("name", ["conv4", "resnet18", "timm:resnet18"])
def test_their_mean_is_the_representation(name: str) -> None:
    settings = settings_of(name)
    encoder = build_encoder(settings).eval()
    images = torch.randn(2, 3, PX, PX)
    with torch.no_grad():
        found = dense_features(encoder, settings)(images).mean((2, 3))
        torch.testing.assert_close(found, encoder(images), rtol=1e-4, atol=1e-5)


def test_a_vision_transformers_tokens_are_those_of_its_patches() -> None:
    """Against timm's own grid."""
    settings = settings_of("timm:vit_small_patch14_reg4_dinov2", **{"model.patch_px": 8})
    encoder = build_encoder(settings).eval()
    images = torch.randn(2, 3, PX, PX)
    with torch.no_grad():
        (expected,) = encoder.forward_intermediates(  # type: ignore[operator]
            images, indices=1, norm=True, intermediates_only=True
        )
        torch.testing.assert_close(dense_features(encoder, settings)(images), expected)


@torch.no_grad()
def test_a_vision_transformer_for_another_size_is_a_copy() -> None:
    settings = settings_of("timm:vit_tiny_patch16_224", **{"model.patch_px": 8})
    encoder = build_encoder(settings).eval()
    images, before = torch.randn(1, 3, PX, PX), fingerprint(encoder)
    expected = encoder(images)
    dense = dense_features(encoder, settings, 96)
    assert dense(torch.randn(1, 3, 96, 96)).shape == (1, 192, 12, 12)
    assert_cells_lie_where_the_image_does(dense, 3, 96)
    assert fingerprint(encoder) == before
    assert torch.equal(encoder(images), expected)


class WithGrid(nn.Module):
    """A user's own module that offers a grid."""

    num_features = 8

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 8, 4, stride=4)

    def forward_dense(self, images: Tensor) -> Tensor:
        return self.layer(images)

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_dense(images).mean((2, 3))


class WithVectors(WithGrid):
    def forward_dense(self, images: Tensor) -> Tensor:
        return super().forward_dense(images).flatten(1)


HERE = "tests.model.encoder.test_dense:"


def test_a_users_own_module_may_offer_a_grid() -> None:
    settings = settings_of(f"{HERE}WithGrid")
    dense = dense_features(build_encoder(settings), settings)
    assert dense(torch.randn(2, 3, PX, PX)).shape == (2, 8, 16, 16)


@pytest.mark.parametrize(
    ("name", "px", "sentence"),
    [
        ("tests.model.encoder.own_encoders:good", PX, r"give its module a method forward_dense"),
        (f"{HERE}WithVectors", PX, r"must give float32 maps \(n, C, h, w\), and gives \(1, 2048\)"),
        ("torchvision:shufflenet_v2_x0_5", PX, "no grid of features that is known here"),
        ("timm:mixer_s16_224", PX, "are no maps, and it does not say how large"),
        ("timm:vit_tiny_patch16_224", 70, "for images of 70×70 pixels: .* patches of 16×16 do"),
    ],
)
def test_what_has_no_grid_is_refused(name: str, px: int, sentence: str) -> None:
    settings = settings_of(name)
    with pytest.raises(SettingsError, match=sentence):
        dense_features(build_encoder(settings), settings, px)
