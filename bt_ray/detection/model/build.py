"""From an encoder to a detector: the ResNet's C4 backbone, or a feature pyramid."""

from collections import OrderedDict

from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign, roi_align

from bt_ray.detection.model.detector import Detector
from bt_ray.detection.model.proposals import build_proposals
from bt_ray.detection.model.regions import BoxPredictor, Maps, RegionHeads
from bt_ray.detection.model.stages import STAGES, Stages, find_stages
from bt_ray.detection.protocols import DetectionProtocol

_ANCHORS_PX = (32, 64, 128, 256, 512)
_REGION = 14
"""Side of a region of C4's map, which the last stage halves."""
_PYRAMID_CHANNELS, _PYRAMID_FEATURES = 256, 1024
_PYRAMID_REGION, _PYRAMID_MASK = 7, 14
_MASK_CHANNELS = 256


def build_detector(encoder: nn.Module, num_classes: int, protocol: DetectionProtocol) -> Detector:
    """A detector whose backbone has the encoder's weights; all others are new.

    They are drawn by torch's global generator. All of the encoder's layers are trained, its batch
    norms, too.

    Args:
      encoder: a ResNet; it must not be used afterwards.
      num_classes: without the background.
    Raises: SettingsError if the encoder is no ResNet (`stages.find_stages`).
    """
    stages = find_stages(encoder)
    build = _build_c4 if protocol.backbone == "c4" else _build_pyramid
    return build(stages, num_classes + 1, masks=protocol.masks).requires_grad_(True)


def _build_c4(stages: Stages, num_classes: int, *, masks: bool) -> Detector:
    """Up to layer3 the backbone; layer4 is the head of regions, with a batch norm after it.

    Source: He et al. 2019, appendix B, whose code has the extra batch norm (Res5ROIHeadsExtraNorm).
    detectron2's defaults are the rest: RoIAlign whose samples' number fits the region, aligned by
    half a pixel. What differs is in `proposals` and `regions`, and that scores are taken with batch
    norm's running statistics, where that code computes them anew before (precise BN).
    """
    channels = stages.channels["layer4"]
    head = nn.Sequential(OrderedDict(layer4=stages.layers["layer4"], norm=nn.BatchNorm2d(channels)))
    body = IntermediateLayerGetter(stages.body, {"layer3": "0"})
    rpn = build_proposals(
        stages.channels["layer3"],
        (_ANCHORS_PX,),
        before_suppression={"training": 12_000, "testing": 6000},
        kept={"training": 2000, "testing": 1000},
    )
    mask_predictor = MaskRCNNPredictor(channels, _MASK_CHANNELS, num_classes) if masks else None
    heads = RegionHeads(
        RegionAlign(stages.strides["layer3"]),
        head,
        BoxPredictor(channels, num_classes),
        mask_predictor=mask_predictor,
    )
    return Detector(body, rpn, heads)


def _build_pyramid(stages: Stages, num_classes: int, *, masks: bool) -> Detector:
    """A pyramid of the four stages' maps and a fifth, with torchvision's heads.

    Those have no batch norm: two fully connected layers for boxes, four convolutions for masks.
    Source: Lin et al. 2017; torchvision's `fasterrcnn_resnet50_fpn`, `maskrcnn_resnet50_fpn`.
    """
    names = {stage: str(number) for number, stage in enumerate(STAGES)}
    backbone = BackboneWithFPN(
        stages.body, names, [stages.channels[stage] for stage in STAGES], _PYRAMID_CHANNELS
    )
    rpn = build_proposals(
        _PYRAMID_CHANNELS,
        tuple((px,) for px in _ANCHORS_PX),
        before_suppression={"training": 2000, "testing": 1000},
        kept={"training": 2000, "testing": 1000},
    )
    stride = stages.strides["layer1"]
    heads = RegionHeads(
        PyramidAlign(list(names.values()), _PYRAMID_REGION, stride),
        TwoMLPHead(_PYRAMID_CHANNELS * _PYRAMID_REGION**2, _PYRAMID_FEATURES),
        BoxPredictor(_PYRAMID_FEATURES, num_classes),
        mask_pool=PyramidAlign(list(names.values()), _PYRAMID_MASK, stride) if masks else None,
        mask_head=MaskRCNNHeads(_PYRAMID_CHANNELS, (_MASK_CHANNELS,) * 4, 1) if masks else None,
        mask_predictor=(
            MaskRCNNPredictor(_MASK_CHANNELS, _MASK_CHANNELS, num_classes) if masks else None
        ),
    )
    return Detector(backbone, rpn, heads)


class RegionAlign(nn.Module):
    """Regions (m, c, 14, 14) of the one map, m those of all images, one image after the other.

    Args:
      stride: of the map, in pixels.
    """

    def __init__(self, stride: int) -> None:
        super().__init__()
        self._scale = 1 / stride

    def forward(self, maps: Maps, boxes: list[Tensor], sizes: list[tuple[int, int]]) -> Tensor:
        """The regions in these boxes (m, 4) of each image, in pixels."""
        (features,) = maps.values()
        boxes = [box.to(features) for box in boxes]
        regions: Tensor = roi_align(features, boxes, _REGION, self._scale, aligned=True)
        return regions


class PyramidAlign(MultiScaleRoIAlign):  # type: ignore[misc]  # torchvision is untyped
    """torchvision's, which takes the maps' scales from the padded images.

    It would take them from the images' own sizes, which tell them only roughly if they are small.
    """

    def __init__(self, names: list[str], side: int, stride: int) -> None:
        super().__init__(names, side, sampling_ratio=2)
        self._stride = stride

    def forward(self, x: Maps, boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """The regions (m, c, side, side) in these boxes (m, 4) of each image, in pixels."""
        height, width = x[self.featmap_names[0]].shape[-2:]
        regions: Tensor = super().forward(
            x, boxes, [(height * self._stride, width * self._stride)] * len(boxes)
        )
        return regions
