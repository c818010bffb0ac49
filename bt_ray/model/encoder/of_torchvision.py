"""torchvision's classifiers without their last layers."""

from typing import Any, cast

from torch import nn

from bt_ray.config import Settings
from bt_ray.errors import SettingsError
from bt_ray.model.encoder.stem import shorten_stem, take_channels

_HEADS = ("fc", "classifier", "heads", "head")
"""What torchvision calls the last layers."""
_OF_FAMILIES: dict[str, dict[str, Any]] = {
    "resnet": {"zero_init_residual": True},
    "resnext": {"zero_init_residual": True},
    "wide_resnet": {"zero_init_residual": True},
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception": {"aux_logits": False, "init_weights": True},
}
"""What a family's builder is told, by how its names begin."""


def build(name: str, settings: Settings) -> nn.Module:
    """The classifier of this name with new weights, up to its first fully connected layer.

    Its weights have torchvision's names. A vision transformer's positions are those of the
    settings' image size; other models take any size.

    Raises: SettingsError if there is no such classifier, or it cannot be built so.
    """
    import torchvision  # here: it takes as long to import as torch, and small encoders need none

    model = settings.model
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise SettingsError(
            f"model.encoder={model.encoder}: torchvision {torchvision.__version__} has no "
            f"classifier {name!r}; it has {', '.join(known)}."
        )
    if model.patch_px is not None:
        raise SettingsError(
            f"model.patch_px={model.patch_px}: torchvision's patch sizes are fixed; leave it out, "
            "or take the model from timm."
        )
    encoder = _build(name, settings)
    take_channels(encoder, settings.data.channels)
    if model.stem == "cifar":
        shorten_stem(encoder, settings)
    _set_stochastic_depth(encoder, settings)
    encoder.num_features = _cut(encoder, model.encoder)  # type: ignore[assignment]
    return encoder


def _build(name: str, settings: Settings) -> nn.Module:
    import torchvision

    options: dict[str, Any] = {}
    for family, theirs in _OF_FAMILIES.items():
        if name.startswith(family):
            options |= theirs
    if name.startswith("vit_"):
        options["image_size"] = settings.views.image_px
    if name.startswith("maxvit"):
        options["input_size"] = (settings.views.image_px,) * 2
    try:
        return cast(nn.Module, torchvision.models.get_model(name, weights=None, **options))
    except (ValueError, AssertionError, RuntimeError) as error:
        raise SettingsError(
            f"model.encoder={settings.model.encoder} cannot be built for views.image_px="
            f"{settings.views.image_px} ({error}); try another size."
        ) from error


def _set_stochastic_depth(encoder: nn.Module, settings: Settings) -> None:
    """Stochastic depth up to `model.drop_path`, growing from block to block as the model has it."""
    from torchvision.ops import StochasticDepth

    layers = [part for part in encoder.modules() if isinstance(part, StochasticDepth)]
    highest = max((layer.p for layer in layers), default=0.0)
    wanted = settings.model.drop_path
    if wanted and not highest:
        raise SettingsError(
            f"model.drop_path={wanted}: {settings.model.encoder} has no stochastic depth; leave it "
            "at 0."
        )
    for layer in layers:
        layer.p = layer.p * wanted / highest if highest else 0.0


def _cut(encoder: nn.Module, called: str) -> int:
    """Takes the last layers off, from the first fully connected one on; F, what that one took."""
    name = next((name for name in _HEADS if hasattr(encoder, name)), None)
    head = None if name is None else getattr(encoder, name)
    layers: list[Any] = list(head.children()) if isinstance(head, nn.Sequential) else [head]
    for number, layer in enumerate(layers):
        if isinstance(layer, nn.Linear):
            kept = [part for part in layers[:number] if not isinstance(part, nn.Dropout)]
            setattr(encoder, str(name), nn.Sequential(*kept) if kept else nn.Identity())
            return layer.in_features
    raise SettingsError(
        f"model.encoder={called} ends without a fully connected layer that could be taken off; "
        "take another, or one from timm."
    )
