"""Faster R-CNN and Mask R-CNN: a backbone, proposals, and heads for regions."""

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from bt_ray.detection.model.arithmetic import widen
from bt_ray.detection.model.proposals import ProposalNetwork
from bt_ray.detection.model.regions import Found, RegionHeads
from bt_ray.detection.targets import Target
from bt_ray.distributed.collectives import all_reduce_sum


class Detector(nn.Module):
    """Finds objects in images: Ren et al. 2015; with masks, He et al. 2017."""

    def __init__(self, backbone: nn.Module, rpn: ProposalNetwork, roi_heads: RegionHeads) -> None:
        super().__init__()
        self.backbone, self.rpn, self.roi_heads = backbone, rpn, roi_heads

    def forward(
        self,
        images: Tensor,
        sizes: list[tuple[int, int]],
        targets: list[Target] | None = None,
    ) -> dict[str, Tensor] | list[Found]:
        """In eval mode what is found in each image; in training mode the losses.

        These are a worker's shares of the losses of the global batch, which are their sums over the
        workers: `rpn_objectness` and `rpn_box`, means over the images; `class` and `box`, means
        over the regions of all images; `mask`, if masks are predicted, the mean over those with an
        object. All workers must call it in training mode together.

        Args:
          images: (n, c, H, W), normalised; what is beyond an image's own size is set to 0.
          sizes: height and width of each image in pixels.
          targets: needed in training mode.
        """
        images = blank(images, sizes)
        maps = {name: widen(x) for name, x in self.backbone(images).items()}
        proposals, of_anchors = self.rpn(ImageList(images, sizes), maps, targets)
        found, sums = self.roi_heads(maps, proposals, sizes, targets)
        if not self.training:
            return list(found)
        counts = torch.tensor([len(images), sums.num_regions, sums.num_positive])
        all_images, all_regions, all_positive = (
            all_reduce_sum(counts.to(images.device)).clamp(min=1).unbind()
        )
        losses: dict[str, Tensor] = {
            "rpn_objectness": of_anchors["loss_objectness"] / all_images,
            "rpn_box": of_anchors["loss_rpn_box_reg"] / all_images,
            "class": sums.losses["class"] / all_regions,
            "box": sums.losses["box"] / all_regions,
        }
        if "mask" in sums.losses:
            losses["mask"] = sums.losses["mask"] / all_positive
        return losses


def blank(images: Tensor, sizes: list[tuple[int, int]]) -> Tensor:
    """The images with zeros beyond each one's height and width.

    Convolutions and batch norms then see what they see of images that are padded after they are
    normalised, as detectron2 pads them.
    """
    heights, widths = torch.tensor(sizes, device=images.device).view(-1, 2, 1).unbind(1)
    rows, columns = (torch.arange(px, device=images.device) for px in images.shape[-2:])
    inside = (rows < heights)[:, None, :, None] & (columns < widths)[:, None, None, :]
    return images.masked_fill(~inside, 0)
