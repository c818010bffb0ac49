"""What is computed of regions: their classes, boxes and masks."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, l1_loss
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads, maskrcnn_inference, maskrcnn_loss

from bt_ray.detection.model.arithmetic import widen
from bt_ray.detection.targets import Target

Maps = dict[str, Tensor]
"""The backbone's, (n, c, h, w) each, by name."""
Found = dict[str, Tensor]
"""`boxes` (m, 4), `labels` (m,) from 1 on, `scores` (m,) and, with masks, `masks` (m, 1, M, M):
the share of each cell of the box that belongs to the object."""


@dataclass(frozen=True, kw_only=True)
class Sums:
    """Losses of this worker's regions, as sums, and over how many regions they are sums.

    `box` is divided by the number of all regions, as `class` is: an image's weight in it does not
    depend on how many of its regions are objects.
    """

    losses: dict[str, Tensor] = field(default_factory=dict)
    num_regions: int = 0
    num_positive: int = 0


class BoxPredictor(FastRCNNPredictor):  # type: ignore[misc]  # torchvision is untyped
    """Logits and offsets of regions, each class with offsets of its own; weights as detectron2's.

    Args:
      num_classes: the background, class 0, among them.
    """

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__(in_channels, num_classes)
        for layer, deviation in ((self.cls_score, 0.01), (self.bbox_pred, 0.001)):
            nn.init.normal_(layer.weight, std=deviation)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (m, classes) and offsets (m, 4 · classes) of features (m, c) or maps (m, c, …)."""
        logits, offsets = super().forward(x.mean((2, 3)) if x.dim() == 4 else x)
        return widen(logits), widen(offsets)


class RegionHeads(RoIHeads):  # type: ignore[misc]
    """torchvision's heads for regions, with detectron2's losses.

    The loss of boxes is the plain absolute difference (torchvision's: smooth L1 with β = 1/9).
    Masks' targets are torchvision's: an object's mask averaged in each cell, which detectron2
    rounds to 0 or 1. Without a head of their own, masks are made of what the box head makes of
    the regions: in training of the positive ones' share of its maps, which are not computed anew.

    Args:
      pool, head, predictor: of boxes.
      mask_pool, mask_head: of masks; none: the boxes'.
      mask_predictor: none: no masks are predicted.
    """

    def __init__(
        self,
        pool: nn.Module,
        head: nn.Module,
        predictor: BoxPredictor,
        *,
        mask_pool: nn.Module | None = None,
        mask_head: nn.Module | None = None,
        mask_predictor: nn.Module | None = None,
    ) -> None:
        super().__init__(
            pool,
            head,
            predictor,
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=512,
            positive_fraction=0.25,
            bbox_reg_weights=None,
            score_thresh=0.05,
            nms_thresh=0.5,
            detections_per_img=100,
            mask_roi_pool=mask_pool,
            mask_head=mask_head,
            mask_predictor=mask_predictor,
        )

    def has_mask(self) -> bool:
        """Whether masks are predicted."""
        return self.mask_predictor is not None

    def forward(
        self,
        features: Maps,
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[Target] | None = None,
    ) -> tuple[list[Found], Sums]:
        """In eval mode what is found in each image; in training mode the losses."""
        if self.training:
            return [], self._losses(features, proposals, image_shapes, targets)
        return self._find(features, proposals, image_shapes), Sums()

    def _losses(
        self,
        maps: Maps,
        proposals: list[Tensor],
        sizes: list[tuple[int, int]],
        targets: list[Target] | None,
    ) -> Sums:
        """Of regions that are drawn from the proposals and the objects themselves."""
        boxes, matched, labels, wanted = self.select_training_samples(proposals, targets)
        features = self.box_head(self.box_roi_pool(maps, boxes, sizes))
        logits, offsets = self.box_predictor(features)
        of_regions = torch.cat(labels)
        positive = torch.where(of_regions > 0)[0]
        offsets = offsets.unflatten(1, (-1, 4))[positive, of_regions[positive]]
        losses = {
            "class": cross_entropy(logits, of_regions, reduction="sum"),
            "box": l1_loss(offsets, torch.cat(wanted)[positive].to(offsets), reduction="sum"),
        }
        if self.has_mask():
            of_objects = [label > 0 for label in labels]
            chosen = [box[is_object] for box, is_object in zip(boxes, of_objects, strict=True)]
            objects = [m[is_object] for m, is_object in zip(matched, of_objects, strict=True)]
            if self.mask_head is None:
                mask_features = features[positive]
            else:
                mask_features = self.mask_head(self.mask_roi_pool(maps, chosen, sizes))
            losses["mask"] = len(positive) * maskrcnn_loss(
                widen(self.mask_predictor(mask_features)),
                chosen,
                [target["masks"] for target in targets or ()],
                [target["labels"] for target in targets or ()],
                objects,
            )
        return Sums(losses=losses, num_regions=len(of_regions), num_positive=len(positive))

    def _find(
        self, maps: Maps, proposals: list[Tensor], sizes: list[tuple[int, int]]
    ) -> list[Found]:
        """What is found in each image."""
        logits, offsets = self.box_predictor(
            self.box_head(self.box_roi_pool(maps, proposals, sizes))
        )
        columns = self.postprocess_detections(logits, offsets, proposals, sizes)
        found = [
            {"boxes": boxes, "labels": labels, "scores": scores}
            for boxes, scores, labels in zip(*columns, strict=True)
        ]
        if self.has_mask():
            masks = self._masks(maps, [one["boxes"] for one in found], sizes)
            shares = maskrcnn_inference(masks, [one["labels"] for one in found])
            for one, share in zip(found, shares, strict=True):
                one["masks"] = share
        return found

    def _masks(self, maps: Maps, boxes: list[Tensor], sizes: list[tuple[int, int]]) -> Tensor:
        """Logits (m, classes, M, M) of the masks in these boxes of all images."""
        pool, head = self.mask_roi_pool, self.mask_head
        if head is None:
            pool, head = self.box_roi_pool, self.box_head
        return widen(self.mask_predictor(head(pool(maps, boxes, sizes))))
