"""Published scores of ResNet-50 pretrained on ImageNet, to stand beside one's own."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """`scores` are shares, 0 to 1, by name."""

    source: str
    scores: dict[str, float]


KNN = (
    Published("mmselfsup, ResNet-50, ImageNet, 300 epochs, k = 20", {"top1": 0.638}),
    Published("mmselfsup, ResNet-50, ImageNet, 300 epochs, k = 200", {"top1": 0.619}),
)
"""The paper has no kNN."""
LINEAR = (
    Published("paper, Table 1: ResNet-50, ImageNet, 1000 epochs", {"top1": 0.732, "top5": 0.910}),
)
SEMI = (
    Published(
        "paper, Table 2: ResNet-50, ImageNet, 1000 epochs",
        {"1 % top1": 0.550, "10 % top1": 0.697, "1 % top5": 0.792, "10 % top5": 0.893},
    ),
    Published(
        "paper, Table 2: supervised (Zhai et al. 2019)",
        {"1 % top1": 0.254, "10 % top1": 0.564, "1 % top5": 0.484, "10 % top5": 0.804},
    ),
)
PLACES205 = (Published("paper, Table 3: ResNet-50, ImageNet, 1000 epochs", {"top1": 0.541}),)
INATURALIST18 = (Published("paper, Table 3: ResNet-50, ImageNet, 1000 epochs", {"top1": 0.465}),)
VOC07 = (
    Published(
        "paper, Table 3 (it does not say which mAP): ResNet-50, ImageNet, 1000 epochs",
        {"mAP, 11-point": 0.862, "mAP, all-point": 0.862},
    ),
)
