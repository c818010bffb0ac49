"""Twins and encoders of torch's fake tensors, which have shapes and storages but no memory.

Code from elsewhere may ask a tensor for its numbers while a module is built, as timm does for
stochastic depth, and fake ones have none: such an encoder is built for real, and its tensors are
replaced.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from bt_ray.config import Settings
from bt_ray.model.encoder import build_encoder
from bt_ray.model.twins import Twins, build_twins


@contextmanager
def fake_twins(settings: Settings) -> Iterator[Twins]:
    """A context in which all new tensors are fake, with twins of such."""
    with fake_encoder(settings) as encoder:
        yield build_twins(settings, encoder)


@contextmanager
def fake_encoder(settings: Settings) -> Iterator[nn.Module]:
    """A context in which all new tensors are fake, with an encoder of such."""
    foreign = None if settings.model.is_built_in else build_encoder(settings)
    with FakeTensorMode():
        if foreign is not None:
            _replace_tensors(foreign)
        yield build_encoder(settings) if foreign is None else foreign


def _replace_tensors(module: nn.Module) -> None:
    """Puts new tensors in place of a module's parameters and buffers; shared ones stay shared."""
    made: dict[int, nn.Parameter] = {}
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False, remove_duplicate=False)):
            if id(parameter) not in made:
                made[id(parameter)] = nn.Parameter(
                    torch.empty(parameter.shape, dtype=parameter.dtype),
                    requires_grad=parameter.requires_grad,
                )
            setattr(part, name, made[id(parameter)])
        for name, buffer in list(part.named_buffers(recurse=False)):
            setattr(part, name, torch.empty(buffer.shape, dtype=buffer.dtype))
