"""timm's models without their classifiers."""

from typing import Any, cast

from torch import nn

from bt_ray.config import Settings
from bt_ray.errors import LaunchError, SettingsError
from bt_ray.model.encoder.stem import shorten_stem

_MOST_SHOWN = 5


def build(name: str, settings: Settings) -> nn.Module:
    """Timm's model of this name with new weights, which gives pooled features (n, F).

    Models of a fixed size (vision transformers) are made for the settings' image size. Stochastic
    depth is off unless `model.drop_path` is above 0.

    Raises: SettingsError if there is no such model, or it cannot be built so; LaunchError if timm
      is not installed.
    """
    timm = require_timm()
    model = settings.model
    if not timm.is_model(name):
        near = timm.list_models(f"*{name.split('.')[0].split('_')[0]}*")[:_MOST_SHOWN]
        raise SettingsError(
            f"model.encoder={model.encoder}: timm {timm.__version__} has no model {name!r}"
            f"{'; it has ' + ', '.join(near) + ' …' if near else ''}."
        )
    encoder = _create(timm, name, settings)
    if model.stem == "cifar":
        shorten_stem(encoder, settings)
    if not model.drop_path:
        _leave_no_path_out(encoder)
    # Some models have a layer between pooling and classifier, whose features they then give.
    width = getattr(encoder, "head_hidden_size", None) or encoder.num_features
    if width != encoder.num_features:
        encoder.num_features = width
    return encoder


def require_timm() -> Any:
    """The package. Raises: LaunchError if it is not installed."""
    try:
        import timm
    except ImportError as error:
        raise LaunchError(
            "Encoders and weights named timm:… need timm: `pip install bt-ray[encoders]`."
        ) from error
    return timm


def statistics(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of RGB that timm's published weights of this model were trained with."""
    known = require_timm().get_pretrained_cfg(name)
    return tuple(known.mean), tuple(known.std)


def _create(timm: Any, name: str, settings: Settings) -> nn.Module:
    model = settings.model
    options: dict[str, Any] = {"num_classes": 0, "in_chans": settings.data.channels}
    if model.drop_path:
        options["drop_path_rate"] = model.drop_path
    if model.patch_px is not None:
        options["patch_size"] = model.patch_px
    known = timm.get_pretrained_cfg(name)
    if known is not None and known.fixed_input_size:
        options["img_size"] = settings.views.image_px
    try:
        return cast(nn.Module, timm.create_model(name, pretrained=False, **options))
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        told = ", ".join(f"{key}={value}" for key, value in options.items())
        raise SettingsError(
            f"model.encoder={model.encoder} cannot be built with {told} ({error}); see "
            "model.patch_px, model.drop_path, views.image_px and data.channels."
        ) from error


def _leave_no_path_out(encoder: nn.Module) -> None:
    from timm.layers.drop import DropPath

    for part in encoder.modules():
        if isinstance(part, DropPath):
            part.drop_prob = 0.0
