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
