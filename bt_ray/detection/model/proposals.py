"""The region proposal network: torchvision's, with detectron2's losses."""

from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, l1_loss
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead

from bt_ray.detection.model.arithmetic import widen

_RATIOS = (0.5, 1.0, 2.0)
_ANCHORS_TRAINED = 256
"""Of each image, at most; half of them on objects if there are as many."""


class ProposalHead(RPNHead):  # type: ignore[misc]  # torchvision is untyped
    """torchvision's, whose logits and offsets come in single precision at least."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Of each map (n, c, h, w), logits (n, a, h, w) and offsets (n, 4a, h, w)."""
        logits, offsets = super().forward(x)
        return [widen(one) for one in logits], [widen(one) for one in offsets]


class ProposalNetwork(RegionProposalNetwork):  # type: ignore[misc]
    """torchvision's region proposal network, with losses as detectron2 computes them.

    Both are sums over the sampled anchors of all images, divided by 256 whether an image has as
    many or not, and that of boxes is the plain absolute difference (torchvision divides by the
    number of sampled anchors and has smooth L1 with β = 1/9). The sums are the images' own, so
    that those of workers can be added.
    """

    def compute_loss(
        self,
        objectness: Tensor,
        pred_bbox_deltas: Tensor,
        labels: list[Tensor],
        regression_targets: list[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Sums over the images of the losses of objectness and of boxes.

        Args:
          objectness: logits of all images' anchors; offsets and targets are in the same order.
          labels: of each image's anchors, 1 on an object, 0 on none, −1 on neither.
        """
        on_object, on_none = (
            torch.cat(chosen).bool() for chosen in self.fg_bg_sampler(labels)
        )  # fmt: skip
        chosen = on_object | on_none
        logits, wanted = objectness.flatten()[chosen], torch.cat(labels)[chosen]
        score = binary_cross_entropy_with_logits(logits, wanted.to(logits), reduction="sum")
        offsets, right = pred_bbox_deltas[on_object], torch.cat(regression_targets)[on_object]
        box = l1_loss(offsets, right.to(offsets), reduction="sum")
        return score / _ANCHORS_TRAINED, box / _ANCHORS_TRAINED


def build_proposals(
    channels: int,
    sizes: tuple[tuple[int, ...], ...],
    *,
    before_suppression: dict[str, int],
    kept: dict[str, int],
) -> ProposalNetwork:
    """A new network, its weights drawn by torch's global generator.

    Args:
      channels: of each map.
      sizes: anchors' sides in pixels, of each map.
      before_suppression: proposals of an image, the best ones, from which those that overlap are
        taken out, in `training` and in `testing`; `kept`: how many of the rest are kept.
    """
    anchors = AnchorGenerator(sizes, (_RATIOS,) * len(sizes))
    return ProposalNetwork(
        anchors,
        ProposalHead(channels, cast(list[int], anchors.num_anchors_per_location())[0]),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=_ANCHORS_TRAINED,
        positive_fraction=0.5,
        pre_nms_top_n=before_suppression,
        post_nms_top_n=kept,
        nms_thresh=0.7,
    )
