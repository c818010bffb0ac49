"""Tensors of any origin become those of an encoder, or are refused by name."""

import re
from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
from timm.layers import resample_abs_pos_embed
from timm.models import adapt_input_conv
from torch import Tensor, nn

from bt_ray.config import Settings, override
from bt_ray.errors import CheckpointError
from bt_ray.model.encoder import build_encoder
from bt_ray.model.fit import adapt_channels, fit
from bt_ray.model.pretrained import describe

Tensors = dict[str, Tensor]
VIT = {"model.encoder": "timm:vit_tiny_patch16_224", "model.patch_px": 8, "views.image_px": 32}
BIG_VIT = {**VIT, "views.image_px": 64}
RESNET = {"model.encoder": "resnet18", "views.image_px": 32}


def weights_of(settings: Settings, changes: dict[str, object], seed: int = 1) -> Tensors:
    torch.manual_seed(seed)
    return build_encoder(override(settings, changes)).state_dict()


def fitted(settings: Settings, changes: dict[str, object], tensors: Tensors) -> tuple[Tensors, str]:
    """All tensors of the encoder, and the notes as one text."""
    chosen = override(settings, changes)
    found = fit(tensors, build_encoder(chosen), "FILE", describe(chosen))
    return dict(found.tensors), "; ".join(found.notes)


def assert_same(one: Tensors, other: Tensors) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


LAYOUTS: dict[str, Callable[[Tensors], Tensors]] = {
    "bare": lambda own: own,
    "of a wrapped model": lambda own: {f"module.{name}": t for name, t in own.items()},
    "of Barlow Twins and VICReg": lambda own: {
        **{f"module.backbone.{name}": t for name, t in own.items()},
        "module.projector.0.weight": torch.zeros(3),
    },
    "of MoCo v2": lambda own: {
        **{f"module.encoder_k.{name}": t + 1 for name, t in own.items()},
        **{f"module.encoder_q.{name}": t for name, t in own.items()},
        "module.encoder_q.fc.0.weight": torch.zeros(3),
        "module.queue": torch.zeros(4),
    },
    "of MoCo v3": lambda own: {
        **{f"module.momentum_encoder.{name}": t + 1 for name, t in own.items()},
        **{f"module.base_encoder.{name}": t for name, t in own.items()},
    },
    "of SimSiam": lambda own: {
        **{f"module.encoder.{name}": t for name, t in own.items()},
        "module.predictor.0.weight": torch.zeros(3),
    },
    "of DINO": lambda own: {
        **{f"student.backbone.{name}": t + 1 for name, t in own.items()},
        **{f"teacher.backbone.{name}": t for name, t in own.items()},
        "teacher.head.mlp.0.weight": torch.zeros(3),
    },
    "of a classifier": lambda own: {
        **own, "fc.weight": torch.zeros(7, 512), "fc.bias": torch.zeros(7),
    },
    "without counters": lambda own: {n: t for n, t in own.items() if "num_batches" not in n},
    "in half precision": lambda own: {
        n: t.half() if t.is_floating_point() else t for n, t in own.items()
    },
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_encoder_is_found_in_what_training_code_writes(
    small_settings: Settings, layout: str
) -> None:
    own = weights_of(small_settings, RESNET)
    found, notes = fitted(small_settings, RESNET, LAYOUTS[layout](own))
    wanted = LAYOUTS["in half precision"](own) if layout == "in half precision" else own
    assert_same(found, {name: value.to(own[name].dtype) for name, value in wanted.items()})
    if layout == "of a classifier":
        assert notes == "its last layers were left out: fc.weight, fc.bias"
    elif layout == "of MoCo v2":
        assert "121 tensors that do not begin with module.encoder_q. were left out" in notes
    elif layout in ("bare", "of a wrapped model"):
        assert notes == ""


def test_a_prefix_is_not_taken_for_a_part_of_torchvisions_vision_transformer(
    small_settings: Settings,
) -> None:
    """Its own names begin with `encoder.`."""
    vit = torchvision.models.VisionTransformer(32, 8, 1, 2, 16, 32, num_classes=3)
    encoder = torchvision.models.VisionTransformer(32, 8, 1, 2, 16, 32)
    encoder.heads = nn.Identity()
    own = {n: t for n, t in vit.state_dict().items() if not n.startswith("heads")}
    for prefix in ("", "module.encoder."):
        found = fit({f"{prefix}{n}": t for n, t in vit.state_dict().items()}, encoder, "F", "ViT")
        assert_same(dict(found.tensors), own)


def test_positions_of_torchvisions_vision_transformer_are_resampled() -> None:
    before = torchvision.models.VisionTransformer(32, 8, 1, 2, 16, 32)
    after = torchvision.models.VisionTransformer(48, 8, 1, 2, 16, 32)
    before.heads, after.heads = nn.Identity(), nn.Identity()
    found = fit(before.state_dict(), after, "F", "ViT")
    positions = before.state_dict()["encoder.pos_embedding"]
    grid = positions[:, 1:].permute(0, 2, 1).reshape(1, 16, 4, 4)
    naive = nn.functional.interpolate(grid, size=(6, 6), mode="bicubic", align_corners=True)
    naive = torch.cat([positions[:, :1], naive.flatten(2).permute(0, 2, 1)], dim=1)
    torch.testing.assert_close(found.tensors["encoder.pos_embedding"], naive)
    assert found.notes == ("encoder.pos_embedding (1, 17, 16) was adapted to (1, 37, 16)",)


def test_positions_of_timms_vision_transformers_are_resampled(small_settings: Settings) -> None:
    own = weights_of(small_settings, VIT)
    found, notes = fitted(small_settings, BIG_VIT, own)
    naive = resample_abs_pos_embed(own["pos_embed"], [8, 8], num_prefix_tokens=1)
    torch.testing.assert_close(found["pos_embed"], naive)
    assert notes == "pos_embed (1, 17, 192) was adapted to (1, 65, 192)"
    assert_same({**found, "pos_embed": own["pos_embed"]}, own)


def _as_published(name: str) -> str:
    """The authors' name of a tensor of timm's ConvNeXt."""
    for ours, theirs in (
        (r"stem\.", "downsample_layers.0."), (r"head\.norm", "norm"), (r"\.blocks", ""),
        (r"stages\.(\d)\.downsample", r"downsample_layers.\1"),
        ("conv_dw", "dwconv"), (r"mlp\.fc", "pwconv"),
    ):  # fmt: skip
        name = re.sub(ours, theirs, name)
    return name


def test_weights_in_the_layout_that_timm_converts(small_settings: Settings) -> None:
    """ConvNeXts as their authors published them."""
    change = {"model.encoder": "timm:convnext_atto", "views.image_px": 32}
    own = weights_of(small_settings, change)
    theirs = {_as_published(name): value for name, value in own.items()}
    assert not theirs.keys() & {"stem.0.weight", "head.norm.weight"}
    found, _ = fitted(small_settings, change, theirs)
    assert_same(found, own)


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_a_first_convolution_takes_other_channels_as_timm_has_it(
    small_settings: Settings, channels: int
) -> None:
    own = weights_of(small_settings, RESNET)
    found, notes = fitted(small_settings, {**RESNET, "data.channels": channels}, own)
    wanted = adapt_input_conv(channels, own["conv1.weight"])
    torch.testing.assert_close(found["conv1.weight"], wanted)
    assert notes == f"conv1.weight (64, 3, 7, 7) was adapted to (64, {channels}, 7, 7)"


@pytest.mark.parametrize("channels", [1, 6])
def test_images_that_are_equal_in_all_channels_give_what_they_gave(channels: int) -> None:
    weight, grey = torch.randn(8, 3, 3, 3), torch.randn(2, 1, 9, 9)
    adapted = adapt_channels(weight, channels)
    found = nn.functional.conv2d(grey.expand(-1, channels, -1, -1), adapted)
    before = nn.functional.conv2d(grey.expand(-1, 3, -1, -1), weight)
    torch.testing.assert_close(found, before, rtol=1e-4, atol=1e-4)


def test_channels_of_which_nobody_knows_what_they_are_are_refused(small_settings: Settings) -> None:
    own = weights_of(small_settings, {**RESNET, "data.channels": 5})
    with pytest.raises(
        CheckpointError, match=r"FILE does not hold a resnet18 \(imagenet stem\): it has in "
        r"another shape conv1\.weight \(64, 5, 7, 7\) where \(64, 3, 7, 7\) is wanted",
    ):  # fmt: skip
        fitted(small_settings, RESNET, own)


@pytest.mark.parametrize(
    ("theirs", "ours", "sentence"),
    [
        (RESNET, {**RESNET, "model.encoder": "resnet34"},
         r"lacks layer1\.2\.conv1\.weight, .*, … \(80 in all\)\. Name the encoder"),
        ({**RESNET, "model.encoder": "resnet34"}, RESNET, r"also has layer1\.2.*… \(.* in all\)"),
        (VIT, RESNET, "does not hold a resnet18 .* lacks conv1.weight, .* also has cls_token"),
        (RESNET, VIT, r"a timm:vit_tiny_patch16_224 \(imagenet stem, patches of 8 pixels\): it"),
        ({"model.encoder": "torchvision:shufflenet_v2_x0_5"},
         {"model.encoder": "timm:convnext_atto"}, "does not hold a timm:convnext_atto"),
        (VIT, {**VIT, "model.encoder": "timm:vit_small_patch16_224"},
         r"in another shape cls_token \(1, 1, 192\) where \(1, 1, 384\) is wanted"),
    ],
)  # fmt: skip
def test_what_is_missing_foreign_or_of_another_shape_is_named_and_counted(
    small_settings: Settings, theirs: dict[str, object], ours: dict[str, object], sentence: str
) -> None:
    tensors = weights_of(small_settings, {"views.image_px": 32, **theirs})
    with pytest.raises(CheckpointError, match=sentence) as refused:
        fitted(small_settings, {"views.image_px": 32, **ours}, tensors)
    assert "\n" not in str(refused.value)


def test_timms_own_classifier_becomes_timms_encoder(small_settings: Settings) -> None:
    torch.manual_seed(0)
    model = timm.create_model("convnext_atto", num_classes=5)
    change = {"model.encoder": "timm:convnext_atto", "views.image_px": 32}
    found, notes = fitted(small_settings, change, model.state_dict())
    assert notes == "its last layers were left out: head.fc.weight, head.fc.bias"
    assert torch.equal(found["head.norm.weight"], model.state_dict()["head.norm.weight"])
