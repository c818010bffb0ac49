"""What an encoder must keep to, looked at before a run starts.

- From float32 images (n, c, px, px) to finite float32 (n, F), F = `num_features`; from smaller
  views, too, if there are any.
- An image's representation depends on other images of its batch by batch norms alone, and by such
  as can take the statistics of all workers: torch's own, or timm's with an activation.
- Every parameter that asks for a gradient gets one.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bt_ray.config import Settings
from bt_ray.errors import SettingsError
from bt_ray.model.batch_norm import globalize_batch_norm
from bt_ray.model.encoder.build import build_encoder

_IMAGES = 3
_MOST_NAMED = 3
_TOLERANCE = 1e-3


def check_encoder(settings: Settings) -> None:
    """Raises SettingsError, with one sentence, unless the settings' encoder keeps to the contract.

    It is built, and computes three random images of each size forward, and of the larger one
    backward, on the CPU; torch's generator is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.training.seed)
        encoder = build_encoder(settings)
        px = settings.views.image_px
        images = torch.randn(_IMAGES, settings.data.channels, px, px)
        called = f"model.encoder={settings.model.encoder}"
        _check_output(encoder, images, called)
        if settings.views.small_count > 0:
            _check_small(encoder, settings, called)
        _check_rows(encoder, images, called)
        _check_gradients(encoder, images, called)
        _check_batch_norm(encoder, called)


def _check_output(encoder: nn.Module, images: Tensor, called: str) -> None:
    encoder.eval()
    with torch.no_grad():
        found = _apply(encoder, images, called)
    expected = (len(images), encoder.num_features)
    if not isinstance(found, Tensor) or found.shape != expected:
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise SettingsError(
            f"{called} must turn images {tuple(images.shape)} into representations (n, F), here "
            f"{expected}, and gives {shape}; pool its maps, or set its num_features."
        )
    if found.dtype != torch.float32:
        raise SettingsError(f"{called} must give float32, not {found.dtype}.")
    if not found.isfinite().all():
        raise SettingsError(f"{called} gives values that are not finite, with new weights.")


def _check_small(encoder: nn.Module, settings: Settings, called: str) -> None:
    """Whether it takes the smaller views: a vision transformer may have one size alone."""
    views = settings.views
    px = views.small_px
    try:
        _check_output(encoder, torch.randn(_IMAGES, settings.data.channels, px, px), called)
    except SettingsError as error:
        raise SettingsError(
            f"views.small_px={px}: the smaller views go through the encoder, too, and {error} Give "
            f"views.small_px={views.image_px}, which it takes, an encoder for images of any size, "
            "such as a ResNet, or, where the method needs none, views.small_count=0."
        ) from error


def _check_rows(encoder: nn.Module, images: Tensor, called: str) -> None:
    """Whether, but for batch norms, other images of a batch change an image's representation."""
    encoder.train()
    for part in encoder.modules():
        if isinstance(part, _BatchNorm):
            part.eval()
    others = images.clone()
    others[1:] = others[1:].flip(-1) * 2 + 1
    found = []
    for batch in (images, others):
        torch.manual_seed(0)  # of dropout
        with torch.no_grad():
            found.append(_apply(encoder, batch, called)[0])
    if float((found[0] - found[1]).norm()) > _TOLERANCE * float(found[0].norm()):
        raise SettingsError(
            f"{called} mixes the images of a batch by something that is no torch batch norm, such "
            "as a normalisation of its own: it cannot be made to see all workers' images. Use "
            "torch.nn.BatchNorm2d, or a normalisation of each image."
        )


def _check_gradients(encoder: nn.Module, images: Tensor, called: str) -> None:
    encoder.train()
    torch.manual_seed(0)
    found = _apply(encoder, images, called)
    if not found.requires_grad:
        return  # a frozen encoder under a trained projector
    (found * torch.randn_like(found)).sum().backward()
    idle = [name for name, p in encoder.named_parameters() if p.requires_grad and p.grad is None]
    if idle:
        raise SettingsError(
            f"{called} has {len(idle)} parameters that get no gradient, such as "
            f"{', '.join(idle[:_MOST_NAMED])}: workers would wait for them for ever. Take them "
            "out, or set their requires_grad to False."
        )


def _check_batch_norm(encoder: nn.Module, called: str) -> None:
    try:
        globalize_batch_norm(encoder)
    except ValueError as error:
        raise SettingsError(f"{called} cannot be trained by several workers: {error}") from error


def _apply(encoder: nn.Module, images: Tensor, called: str) -> Any:
    try:
        return encoder(images)
    except Exception as error:  # whatever the encoder's code may raise
        raise SettingsError(
            f"{called} fails on images {tuple(images.shape)}: {type(error).__name__}: "
            f"{str(error).rstrip('.')}."
        ) from error
