"""A user's own encoder: what a function of their code returns.

    def make_encoder(channels: int, image_px: int) -> nn.Module: …

`model.encoder=package.module:make_encoder` names it. It is called with `channels` and `image_px` if
it has parameters of these names, and returns a module from float32 (n, channels, image_px,
image_px) to float32 (n, F). `contract.check_encoder` holds it to that before a run starts.
"""

import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bt_ray.config import Settings
from bt_ray.errors import SettingsError


def build(module_name: str, factory_name: str, settings: Settings) -> nn.Module:
    """What the factory returns; if it has no `num_features`, that is found by a forward pass.

    Raises: SettingsError if there is no such function, it fails, or it returns something else than
      a module that gives (n, F).
    """
    called = f"model.encoder={settings.model.encoder}"
    factory = _find(module_name, factory_name, called)
    given = {"channels": settings.data.channels, "image_px": settings.views.image_px}
    try:
        encoder = factory(**{key: given[key] for key in _parameters(factory) if key in given})
    except Exception as error:  # whatever the user's code may raise
        raise SettingsError(
            f"{called} raised {type(error).__name__}: {error}. It is called with "
            "channels and image_px, if it takes them."
        ) from error
    if not isinstance(encoder, nn.Module):
        raise SettingsError(f"{called} must return a torch.nn.Module, not {type(encoder)}.")
    if not isinstance(getattr(encoder, "num_features", None), int):
        encoder.num_features = _width(encoder, settings, called)  # type: ignore[assignment]
    return encoder


def _find(module_name: str, factory_name: str, called: str) -> Callable[..., Any]:
    here = str(Path.cwd())
    if here not in sys.path:  # as `python -m` has it, and scripts have not
        sys.path.append(here)
    try:
        factory = getattr(importlib.import_module(module_name), factory_name)
    except Exception as error:  # whatever the user's code may raise
        raise SettingsError(
            f"{called} cannot be imported ({type(error).__name__}: {error}); it must name a "
            "function as package.module:function, in a folder of PYTHONPATH or the current one."
        ) from error
    if not callable(factory):
        raise SettingsError(f"{called} must be a function or class, not {type(factory)}.")
    return factory  # type: ignore[no-any-return]


def _parameters(factory: Callable[..., Any]) -> tuple[str, ...]:
    try:
        return tuple(inspect.signature(factory).parameters)
    except ValueError:  # of some builtins
        return ()


@torch.no_grad()
def _width(encoder: nn.Module, settings: Settings, called: str) -> int:
    """F, of two empty images in eval mode; the module is left as it was."""
    px, was_training = settings.views.image_px, encoder.training
    state = torch.get_rng_state()
    try:
        found = encoder.eval()(torch.zeros(2, settings.data.channels, px, px))
    except Exception as error:  # whatever the user's code may raise
        raise SettingsError(
            f"{called} fails on images (2, {settings.data.channels}, {px}, {px}): "
            f"{type(error).__name__}: {error}."
        ) from error
    finally:
        encoder.train(was_training)
        torch.set_rng_state(state)
    if not isinstance(found, torch.Tensor) or found.dim() != 2:
        raise SettingsError(f"{called} must give (n, F), not {_shape(found)}; pool its maps.")
    return int(found.shape[1])


def _shape(found: Any) -> str:
    return str(tuple(found.shape)) if isinstance(found, torch.Tensor) else str(type(found))
