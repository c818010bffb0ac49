"""Detectors: what is taken of an encoder, what is learnt, and by which weights."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from torchvision.ops import box_iou

from bt_ray.config import DataSettings, ModelSettings, Settings
from bt_ray.detection.model import Detector, build_detector
from bt_ray.detection.model.detector import blank
from bt_ray.detection.model.stages import STAGES, find_stages
from bt_ray.detection.protocols import Backbone
from bt_ray.detection.targets import Target
from bt_ray.errors import SettingsError
from bt_ray.model.encoder import build_encoder
from tests.detection.small import PROTOCOL, detector_of, narrow, narrow_pyramid, painted

KINDS: list[tuple[Backbone, bool]] = [
    ("c4", False), ("c4", True), ("fpn", False), ("fpn", True),
]  # fmt: skip
SIZES = [(64, 64), (56, 40)]


def batch() -> tuple[Tensor, list[tuple[int, int]], list[Target]]:
    """Two images, two objects in the first and one in the second."""
    one = painted([[6, 8, 40, 44], [30, 34, 60, 62]], [1, 2])
    two = painted([[4, 10, 34, 50]], [2])
    two[1]["masks"] = two[1]["masks"][:, :56, :40]
    return torch.stack([one[0], two[0]]), SIZES, [one[1], two[1]]


def nothing() -> list[Target]:
    """Targets of two images without objects."""
    return [
        {
            "boxes": torch.zeros(0, 4),
            "labels": torch.zeros(0, dtype=torch.int64),
            "masks": torch.zeros(0, *size, dtype=torch.uint8),
        }
        for size in SIZES
    ]


@pytest.fixture(autouse=True)
def _narrow() -> Iterator[None]:
    with narrow_pyramid():
        yield


def losses_of(detector: Detector, *arguments: Any) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return cast(dict[str, Tensor], detector(*arguments))


def encoder_of(name: str, channels: int = 3, **model: Any) -> nn.Module:
    data = DataSettings(train="", channels=channels)
    return build_encoder(Settings(name="it", data=data, model=ModelSettings(encoder=name, **model)))


@pytest.mark.parametrize(
    ("name", "options", "strides"),
    [
        ("resnet18", {}, (4, 8, 16, 32)),
        ("resnet18", {"stem": "cifar"}, (1, 2, 4, 8)),
        ("torchvision:resnet18", {"channels": 5}, (4, 8, 16, 32)),
        ("timm:resnet18d", {"channels": 1}, (4, 8, 16, 32)),
    ],
)
def test_stages_are_the_encoder(
    name: str, options: dict[str, Any], strides: tuple[int, ...]
) -> None:
    """The last map's mean is the representation; C4's backbone ends at the third stage."""
    encoder = encoder_of(name, **options).train()
    stages = find_stages(encoder)
    assert encoder.training
    assert [stages.strides[stage] for stage in STAGES] == list(strides)
    assert [stages.channels[stage] for stage in STAGES] == [64, 128, 256, 512]
    x = torch.randn(2, options.get("channels", 3), 64, 64)
    encoder.eval()
    torch.testing.assert_close(stages.body(x).mean((2, 3)), encoder(x))
    maps = build_detector(encoder, 2, PROTOCOL).eval().backbone(x)
    assert {key: tuple(found.shape[1:]) for key, found in maps.items()} == {
        "0": (256, 64 // strides[2], 64 // strides[2])
    }


class Gated(nn.Module):
    """A ResNet by the names of its layers, which does more than they say."""

    def __init__(self) -> None:
        super().__init__()
        for name, part in narrow(3).named_children():
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        for name in ("conv1", "bn1", "act1", "maxpool", *STAGES):
            x = self.get_submodule(name)(x)
        return x.mean((2, 3)) + 1


@pytest.mark.parametrize(
    ("encoder", "reason"),
    [
        (lambda: encoder_of("conv4"), "ConvEncoder is none: conv1, .* is not there"),
        (lambda: encoder_of("timm:resnetv2_18"), "ResNetV2 is none"),
        (Gated, "it computes something beside the stages"),
    ],
)
def test_other_encoders_are_refused(encoder: Any, reason: str) -> None:
    with pytest.raises(SettingsError, match=f"{reason}.*Take an encoder such as resnet50"):
        build_detector(encoder(), 2, PROTOCOL)


def test_published_numbers() -> None:
    """detectron2's of C4; its base configuration, and MoCo's extra batch norm."""
    detector = detector_of(replace(PROTOCOL, masks=True)).eval()
    rpn, heads = detector.rpn, detector.roi_heads
    assert rpn.anchor_generator.sizes == ((32, 64, 128, 256, 512),)
    assert rpn.anchor_generator.aspect_ratios == ((0.5, 1.0, 2.0),)
    assert (rpn.pre_nms_top_n(), rpn.post_nms_top_n(), rpn.nms_thresh) == (6000, 1000, 0.7)
    detector.train()
    assert (rpn.pre_nms_top_n(), rpn.post_nms_top_n()) == (12_000, 2000)
    samplers = (rpn.fg_bg_sampler, heads.fg_bg_sampler)
    assert [(s.batch_size_per_image, s.positive_fraction) for s in samplers] == [
        (256, 0.5), (512, 0.25),
    ]  # fmt: skip
    assert (heads.score_thresh, heads.nms_thresh, heads.detections_per_img) == (0.05, 0.5, 100)
    assert isinstance(heads.box_head.norm, nn.BatchNorm2d)
    regions = heads.box_roi_pool({"0": torch.zeros(1, 16, 4, 4)}, [torch.ones(3, 4)], SIZES)
    assert regions.shape == (3, 16, 14, 14)
    assert heads.box_head(regions).shape == (3, 24, 7, 7)
    assert heads.mask_predictor(heads.box_head(regions)).shape == (3, 3, 14, 14)
    assert all(weight.requires_grad for weight in detector.parameters())


def _groups(detector: Detector) -> Iterator[tuple[str, list[nn.Parameter]]]:
    for name, part in detector.named_children():
        yield name, list(part.parameters())


@pytest.mark.parametrize(("backbone", "masks"), KINDS)
def test_every_weight_gets_a_gradient_and_none_from_anothers_loss(
    backbone: Backbone, masks: bool
) -> None:
    """With objects and without: workers would wait for a gradient that does not come."""
    detector = detector_of(replace(PROTOCOL, backbone=backbone, masks=masks))
    images, sizes, targets = batch()
    for wanted in (targets, nothing()):
        losses = losses_of(detector, images, sizes, wanted)
        assert list(losses)[:4] == ["rpn_objectness", "rpn_box", "class", "box"]
        assert ("mask" in losses) is masks
        parts = dict(_groups(detector))
        for name, loss in losses.items():
            own, other = ("rpn", "roi_heads") if "rpn" in name else ("roi_heads", "rpn")
            found = {
                part: torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
                for part, weights in parts.items()
            }
            assert all(gradient is None for gradient in found[other]), name
            reach = [g for part in (own, "backbone") for g in found[part] if g is not None]
            moves = wanted is targets or name in ("rpn_objectness", "class")
            assert any(bool(gradient.any()) for gradient in reach) is moves, name
        torch.stack(list(losses.values())).sum().backward()
        idle = [name for name, weight in detector.named_parameters() if weight.grad is None]
        assert not idle
        detector.zero_grad()


def _learn(detector: Detector, steps: int, rate: float) -> dict[str, list[float]]:
    """Each loss in each of so many steps on the one batch."""
    images, sizes, targets = batch()
    optimizer = torch.optim.SGD(detector.parameters(), lr=rate, momentum=0.9)
    curves: dict[str, list[float]] = {}
    for _ in range(steps):
        losses = losses_of(detector, images, sizes, targets)
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        for name, loss in losses.items():
            curves.setdefault(name, []).append(loss.item())
    return curves


@pytest.mark.run
def test_losses_fall_and_objects_are_found() -> None:
    detector = detector_of(replace(PROTOCOL, masks=True))
    for name, values in _learn(detector, 100, 0.1).items():
        assert sum(values[-5:]) < 0.95 * sum(values[:5]), name
    images, sizes, targets = batch()
    detector.eval()
    with torch.no_grad():
        found = detector(images, sizes)
    for one, target in zip(found, targets, strict=True):
        overlap = box_iou(target["boxes"], one["boxes"])
        same = target["labels"][:, None] == one["labels"]
        best, place = (overlap * same).max(dim=1)
        assert (best > 0.5).all()
        assert (one["scores"][place] > 0.1).all()
        assert one["masks"].shape == (len(one["boxes"]), 1, 14, 14)
        assert (one["masks"][place].mean((1, 2, 3)) > 0.5).all(), "a box is full of its object"


@pytest.mark.run
def test_losses_of_a_pyramid_fall() -> None:
    detector = detector_of(replace(PROTOCOL, backbone="fpn", masks=True))
    curves = _learn(detector, 40, 0.02)
    del curves["box"]  # of all regions, of which more and more are on objects at first
    for name, values in curves.items():
        assert sum(values[-5:]) < 0.97 * sum(values[:5]), name


@pytest.mark.parametrize(("backbone", "masks"), KINDS)
def test_no_detection_is_an_empty_list(backbone: Backbone, masks: bool) -> None:
    detector = detector_of(replace(PROTOCOL, backbone=backbone, masks=masks)).eval()
    detector.roi_heads.score_thresh = 1.0
    images, sizes, _ = batch()
    with torch.no_grad():
        found = detector(images, sizes)
    assert [len(one["boxes"]) for one in found] == [0, 0]
    assert all(("masks" in one) is masks for one in found)
    assert not masks or all(one["masks"].shape[:2] == (0, 1) for one in found)


def test_boxes_lie_within_their_images() -> None:
    detector = detector_of().eval()
    detector.roi_heads.score_thresh = 0.0
    images, sizes, _ = batch()
    with torch.no_grad():
        found = detector(images, sizes)
    for one, (height, width) in zip(found, sizes, strict=True):
        assert 0 < len(one["boxes"]) <= 100
        assert (one["boxes"] >= 0).all()
        assert (one["boxes"] <= torch.tensor([width, height, width, height])).all()
        assert set(one["labels"].tolist()) <= {1, 2}


def test_what_is_beyond_an_image_does_not_count() -> None:
    """Convolutions see zeros there, whatever the canvas holds."""
    images, sizes, targets = batch()
    clean = blank(images, sizes)
    assert torch.equal(clean[0], images[0])
    assert torch.equal(clean[1, :, :56, :40], images[1, :, :56, :40])
    assert not clean[1, :, 56:].any()
    assert not clean[1, :, :, 40:].any()
    other = images.clone()
    other[1, :, 56:] = 9.0
    detector = detector_of()
    first, second = (losses_of(detector, x, sizes, targets) for x in (images, other))
    for name, loss in first.items():
        assert torch.equal(loss, second[name]), name


def test_losses_are_the_written_ones() -> None:
    """Against loops over anchors and regions in float64, where all of them are drawn."""
    detector = detector_of(replace(PROTOCOL, masks=True)).double()
    images, sizes, targets = batch()
    images = images.double()
    taken: dict[str, Any] = {}
    rpn, heads = detector.rpn, detector.roi_heads
    compute, select = rpn.compute_loss, heads.select_training_samples

    def watched(*arguments: Any) -> Any:
        taken["anchors"] = arguments
        return compute(*arguments)

    def selected(*arguments: Any) -> Any:
        taken["regions"] = select(*arguments)
        return taken["regions"]

    rpn.compute_loss, heads.select_training_samples = watched, selected
    heads.box_predictor.register_forward_hook(
        lambda module, given, found: taken.update(predicted=found)
    )
    heads.mask_predictor.register_forward_hook(
        lambda module, given, found: taken.update(masks=found)
    )
    losses = losses_of(detector, images, sizes, targets)

    logits, offsets, labels, wanted = taken["anchors"]
    labels, wanted = torch.cat(labels), torch.cat(wanted)
    assert 3 <= int((labels == 1).sum()) < 128
    score = box = 0.0
    for number, label in enumerate(labels.tolist()):
        if label >= 0:
            wrong = binary_cross_entropy_with_logits(logits[number, 0], labels[number].double())
            score += float(wrong.detach())
        if label == 1:
            box += float((offsets[number] - wanted[number]).detach().abs().sum())
    assert losses["rpn_objectness"].item() == pytest.approx(score / 256 / 2)
    assert losses["rpn_box"].item() == pytest.approx(box / 256 / 2)

    _, _, classes, regression = taken["regions"]
    logits, offsets = taken["predicted"]
    classes, regression = torch.cat(classes), torch.cat(regression)
    right = [n for n, label in enumerate(classes.tolist()) if label]
    assert len(right) >= 3
    box = sum(
        float((offsets[n, 4 * c : 4 * c + 4] - regression[n]).detach().abs().sum())
        for n in right
        for c in [int(classes[n])]
    )
    assert losses["class"].item() == pytest.approx(cross_entropy(logits, classes).item())
    assert losses["box"].item() == pytest.approx(box / len(classes))
    assert len(taken["masks"]) == len(right), "masks of regions with an object alone"
    assert 0 < losses["mask"].item() < 5


def test_arithmetic_of_boxes_is_single_precision_under_autocast() -> None:
    detector = detector_of(replace(PROTOCOL, masks=True))
    images, sizes, targets = batch()
    with torch.autocast("cpu", torch.bfloat16):
        losses = losses_of(detector, images, sizes, targets)
    exact = losses_of(detector, images, sizes, targets)
    for name, loss in losses.items():
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(exact[name].item(), rel=0.4, abs=0.1), name
    detector.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = detector(images, sizes)
    assert all(one["boxes"].dtype == torch.float32 for one in found)
