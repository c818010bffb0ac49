"""An encoder's features before they are pooled: a grid of cells that lie where the image's do."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any, cast

import torch
from torch import Tensor, nn

from bt_ray.config import Settings
from bt_ray.errors import SettingsError
from bt_ray.model.encoder.convolutional import ConvEncoder

_OWN = "forward_dense"
"""What a user's own module calls the method that gives (n, C, h, w)."""
_MAPS_OF_TORCHVISION = ("convnext", "densenet", "efficientnet", "mobilenetv2", "mobilenetv3", "vgg")
"""Modules of torchvision whose models keep what comes before the pooling in `features`."""
_AFTER_FEATURES: dict[str, Callable[[Tensor], Tensor]] = {"densenet": torch.relu}


def dense_features(
    encoder: nn.Module, settings: Settings, image_px: int | None = None
) -> nn.Module:
    """A module from images (n, c, px, px) to their last feature maps (n, C, h, w), float32.

    It shares the encoder's weights, unless a transformer must be made for another size of images:
    then it is a copy with resampled positions. The encoder is left as it was.

    - ResNets: the last stage; conv4, conv6: the last layer.
    - timm: what `forward_features` gives. Tokens of patches are laid out as a grid; class and
      register tokens are left out.
    - A user's own module: what its method `forward_dense(images)` gives.

    Args:
      settings: those that the encoder was built from.
      image_px: side of the images; none: that of the settings' views.
    Raises: SettingsError if it has no grid, or none for images of this size.
    """
    px = image_px or settings.views.image_px
    dense = _find(encoder, settings, px)
    _check(dense, settings, px)
    return dense


class _Dense(nn.Module):
    """Feature maps of an encoder, in whose mode it is."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder: Any = encoder
        self.training = encoder.training


class _OfConv(_Dense):
    def forward(self, x: Tensor) -> Tensor:
        for layer in self.encoder:
            x = layer(x)
        return x


class _OfResnet(_Dense):
    def forward(self, x: Tensor) -> Tensor:
        e = self.encoder
        x = e.maxpool(e.relu(e.bn1(e.conv1(x))))
        return cast(Tensor, e.layer4(e.layer3(e.layer2(e.layer1(x)))))


class _OfFeatures(_Dense):
    """Of models of torchvision with `features`."""

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.encoder.features(x)
        after = _AFTER_FEATURES.get(_family(self.encoder))
        return after(found) if after else found


class _OfTimm(_Dense):
    """Of timm's models: maps of either layout, or tokens of which the first ones are no patches."""

    def forward(self, x: Tensor) -> Tensor:
        found = self.encoder.forward_features(x)
        if not isinstance(found, Tensor):
            raise ValueError(f"its forward_features gives {type(found).__name__}")
        if found.dim() == 4:
            is_last = getattr(self.encoder, "output_fmt", "NCHW") == "NHWC"
            return found.permute(0, 3, 1, 2) if is_last else found
        tokens = found[:, getattr(self.encoder, "num_prefix_tokens", 0) :]
        height, width = self._grid(x)
        if tokens.dim() != 3 or tokens.shape[1] != height * width:
            raise ValueError(
                f"its features {tuple(found.shape)} are not the tokens of {height}×{width} patches"
            )
        return cast(Tensor, tokens.transpose(1, 2).unflatten(2, (height, width)))

    def _grid(self, x: Tensor) -> tuple[int, int]:
        """Patches down and across the images."""
        patches = getattr(self.encoder, "patch_embed", None)
        size = getattr(patches, "patch_size", None)
        if size is None:
            raise ValueError("its features are no maps, and it does not say how large patches are")
        down, across = (size, size) if isinstance(size, int) else size
        if x.shape[2] % down or x.shape[3] % across:
            raise ValueError(f"its patches of {down}×{across} do not fill them")
        return x.shape[2] // down, x.shape[3] // across


class _OfOwn(_Dense):
    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.encoder.forward_dense(x))


def _find(encoder: nn.Module, settings: Settings, px: int) -> nn.Module:
    module = type(encoder).__module__
    if callable(getattr(encoder, _OWN, None)):
        return _OfOwn(encoder)
    if isinstance(encoder, ConvEncoder):
        return _OfConv(encoder)
    if module == "torchvision.models.resnet":
        return _OfResnet(encoder)
    if module.startswith("torchvision.") and _family(encoder) in _MAPS_OF_TORCHVISION:
        return _OfFeatures(encoder)
    if module.startswith("timm."):
        return _OfTimm(_for_size(encoder, settings, px))
    own = ":" in settings.model.encoder and not settings.model.encoder.startswith("torchvision:")
    raise SettingsError(
        f"model.encoder={settings.model.encoder} gives no grid of features that is known here; "
        + (
            f"give its module a method {_OWN}(images) that returns (n, C, h, w)."
            if own
            else "take a ResNet, or one of timm's vision transformers, ConvNeXts or Swins."
        )
    )


def _family(encoder: nn.Module) -> str:
    return type(encoder).__module__.rpartition(".")[2]


def _for_size(encoder: nn.Module, settings: Settings, px: int) -> nn.Module:
    """The model of timm itself, or a copy of it for images of another size."""
    if px == settings.views.image_px or not hasattr(encoder, "set_input_size"):
        return encoder
    other: Any = deepcopy(encoder)
    try:
        other.set_input_size(img_size=px)
    except (ValueError, AssertionError, RuntimeError, TypeError) as error:
        raise SettingsError(_misfit(settings, px, error)) from error
    return cast(nn.Module, other)


@torch.no_grad()
def _check(dense: nn.Module, settings: Settings, px: int) -> None:
    """Raises SettingsError unless an empty image becomes a grid; the module's mode is kept."""
    was_training = dense.training
    device = next((p.device for p in dense.parameters()), torch.device("cpu"))
    try:
        found = dense.eval()(torch.zeros(1, settings.data.channels, px, px, device=device))
    except Exception as error:  # whatever an encoder's code may raise
        raise SettingsError(_misfit(settings, px, error)) from error
    finally:
        dense.train(was_training)
    if not isinstance(found, Tensor) or found.dim() != 4 or found.dtype != torch.float32:
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise SettingsError(
            f"model.encoder={settings.model.encoder} must give float32 maps (n, C, h, w), and "
            f"gives {shape}."
        )


def _misfit(settings: Settings, px: int, error: Exception) -> str:
    return (
        f"model.encoder={settings.model.encoder} gives no grid of features for images of {px}×{px} "
        f"pixels: {error}. Give another size, or take a ResNet, or one of timm's vision "
        "transformers, ConvNeXts or Swins."
    )
