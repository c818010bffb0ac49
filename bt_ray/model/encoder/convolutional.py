"""Small convolutional encoders for small images."""

from torch import Tensor, nn

LAYERS = {
    "conv4": ((32, 1), (64, 2), (128, 2), (256, 1)),
    "conv6": ((32, 1), (64, 2), (64, 1), (128, 2), (128, 1), (256, 2)),
}
"""Output channels and stride of each layer, by the encoder's name."""


class ConvEncoder(nn.Sequential):
    """3×3 convolutions, each with batch norm and ReLU, then the mean over height and width.

    Args:
      layers: output channels and stride of each convolution.
      channels: of the images.
    """

    num_features: int

    def __init__(self, layers: tuple[tuple[int, int], ...], channels: int) -> None:
        modules: list[nn.Module] = []
        for width, stride in layers:
            modules += [
                nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            ]
            channels = width
        super().__init__(*modules)
        self.num_features = channels

    def forward(self, x: Tensor) -> Tensor:
        """Representations (n, F) of images (n, c, px, px)."""
        for module in self:
            x = module(x)
        return x.mean(dim=(2, 3))
