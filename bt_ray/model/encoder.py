"""Encoders: torchvision's ResNets, and small convolutional ones for small images."""

from typing import cast

from torch import Tensor, nn

from bt_ray.config import Settings

# Channels and stride of each layer.
_SMALL_LAYERS = {
    "conv4": ((32, 1), (64, 2), (128, 2), (256, 1)),
    "conv6": ((32, 1), (64, 2), (64, 1), (128, 2), (128, 1), (256, 2)),
}


def build_encoder(settings: Settings) -> nn.Module:
    """A module that turns images (n, c, px, px) into representations (n, F).

    Its weights are new, drawn by torch's global generator; its attribute `num_features` is F.
    """
    model = settings.model
    if model.encoder in _SMALL_LAYERS:
        return ConvEncoder(_SMALL_LAYERS[model.encoder])
    import torchvision  # here: it takes as long to import as torch, and small encoders need none

    encoder = torchvision.models.get_model(model.encoder, weights=None, zero_init_residual=True)
    if model.stem == "cifar":
        encoder.conv1 = nn.Conv2d(3, 64, 3, stride=1, padding=1, bias=False)
        encoder.maxpool = nn.Identity()
    encoder.num_features = encoder.fc.in_features
    encoder.fc = nn.Identity()
    return cast(nn.Module, encoder)


class ConvEncoder(nn.Sequential):
    """3×3 convolutions, each with batch norm and ReLU, then the mean over height and width.

    Args:
      layers: output channels and stride of each convolution.
    """

    num_features: int

    def __init__(self, layers: tuple[tuple[int, int], ...]) -> None:
        modules: list[nn.Module] = []
        channels = 3
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
        """Representations (n, F) of images (n, 3, px, px)."""
        for module in self:
            x = module(x)
        return x.mean(dim=(2, 3))
