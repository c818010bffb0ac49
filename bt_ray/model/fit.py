"""Tensors of any origin, brought into the names and shapes of an encoder; what was done is told.

- What training code puts in front of names (`module.`, `backbone.`, `encoder_q.`, …) is taken off:
  whatever makes most of the encoder's names.
- A classifier's last layers are left out.
- timm's models read the layouts that timm reads, positions and patches of another size among them;
  positions of torchvision's vision transformers are resampled as torchvision does.
- A first convolution of grey or RGB images becomes one of other channels as timm does it.

Anything else that is missing, foreign or of another shape is refused.
"""

import sys
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bt_ray.errors import CheckpointError

_PREFERRED = ("teacher.", "ema.", "base_encoder.", "online", "encoder_q.", "student.")
"""Of equal networks in a file, whose names begin so; the first that is there is taken."""
_PREFIXES = ("module.", "backbone.", "encoder.")
"""Taken off where none of the encoder's names is found."""
_HEADS = ("fc.", "classifier.", "head.", "heads.", "head_dist.", "AuxLogits.", "aux1.", "aux2.")
_MOST_NAMED = 3
_GREY_OR_RGB = (1, 3)


@dataclass(frozen=True)
class Fitted:
    """All of an encoder's parameters and buffers, and sentences on what was done for it."""

    tensors: Mapping[str, Tensor]
    notes: tuple[str, ...]


@torch.no_grad()
def fit(tensors: Mapping[str, Tensor], encoder: nn.Module, source: str, called: str) -> Fitted:
    """The tensors as the encoder has them.

    Args:
      source: what the tensors come from, and `called`, what the encoder is, for people.
    Raises: CheckpointError if they are another encoder's.
    """
    expected = encoder.state_dict()
    found, notes = _bare(tensors, expected.keys())
    found = _without_heads(found, expected, notes)
    before = {name: tuple(value.shape) for name, value in found.items()}
    if _misfits(found, expected):
        found = _without_heads(_converted(found, encoder, source), expected, notes)
        found = _with_channels(found, encoder)
    for name, value in found.items():
        if name in before and name in expected and before[name] != tuple(value.shape):
            notes.append(f"{name} {before[name]} was adapted to {tuple(value.shape)}")
    _check(found, expected, source, called)
    complete = {name: found.get(name, own) for name, own in expected.items()}
    return Fitted(
        {name: value.to(expected[name].dtype) for name, value in complete.items()}, tuple(notes)
    )


def _bare(
    tensors: Mapping[str, Tensor], wanted: Iterable[str]
) -> tuple[dict[str, Tensor], list[str]]:
    """The encoder's tensors without what is in front of their names, and notes on the others."""
    prefix = _prefix(tensors, set(wanted))
    found = {
        name.removeprefix(prefix): value
        for name, value in tensors.items() if name.startswith(prefix)
    }  # fmt: skip
    left = len(tensors) - len(found)
    return found, [f"{left} tensors that do not begin with {prefix} were left out"] if left else []


def _prefix(tensors: Mapping[str, Tensor], wanted: set[str]) -> str:
    """What is in front of most of the names that the encoder has."""
    hits = Counter[str]()
    for name in tensors:
        parts = name.split(".")
        for cut in range(len(parts)):
            if ".".join(parts[cut:]) in wanted:
                hits[".".join([*parts[:cut], ""])] += 1
    if not hits:
        return _usual_prefix(tensors)
    most = max(hits.values())
    equals = sorted((p for p, count in hits.items() if count == most), key=len)
    return next((p for mark in _PREFERRED for p in equals if mark in p), equals[0])


def _usual_prefix(names: Iterable[str]) -> str:
    """What training code usually has in front, all of it."""
    names, prefix = list(names), ""
    while inner := next((p for p in _PREFIXES if any(n.startswith(prefix + p) for n in names)), ""):
        prefix += inner
    return prefix


def _without_heads(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], notes: list[str]
) -> dict[str, Tensor]:
    """What is left without a classifier's layers, on which a note is made."""
    heads = [name for name in found if name not in expected and name.startswith(_HEADS)]
    if heads:
        notes.append(f"its last layers were left out: {_some(heads)}")
    return {name: value for name, value in found.items() if name not in heads}


def _misfits(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    return any(name not in expected or found[name].shape != expected[name].shape for name in found)


def _converted(found: dict[str, Tensor], encoder: nn.Module, source: str) -> dict[str, Tensor]:
    """What the encoder's library makes of weights in another layout, or of another size.

    Raises: CheckpointError if it fails.
    """
    module = type(encoder).__module__
    try:
        if module.startswith("timm."):
            convert = getattr(sys.modules[module], "checkpoint_filter_fn", None)
            return found if convert is None else dict(convert(found, encoder))
        if module == "torchvision.models.vision_transformer":
            return _with_positions(found, encoder)
    except Exception as error:  # whatever another library raises for weights that it does not know
        raise CheckpointError(
            f"{source} cannot be read as weights of {type(encoder).__name__} "
            f"({type(error).__name__}: {error})."
        ) from error
    return found


def _with_positions(found: dict[str, Tensor], encoder: nn.Module) -> dict[str, Tensor]:
    from torchvision.models.vision_transformer import interpolate_embeddings

    if "encoder.pos_embedding" not in found:
        return found
    size, patch = encoder.image_size, encoder.patch_size
    return dict(interpolate_embeddings(size, patch, OrderedDict(found), "bicubic"))


def _with_channels(found: dict[str, Tensor], encoder: nn.Module) -> dict[str, Tensor]:
    """The tensors with a first convolution for the encoder's number of channels."""
    named = ((n, m) for n, m in encoder.named_modules() if isinstance(m, nn.Conv2d))
    name, first = next(named, ("", None))
    weight = found.get(f"{name}.weight")
    if first is None or weight is None or weight.dim() != 4 or first.groups != 1:
        return found
    theirs, ours = weight.shape[1], first.in_channels
    if theirs == ours or theirs not in _GREY_OR_RGB:
        return found
    return found | {f"{name}.weight": adapt_channels(weight, ours)}


def adapt_channels(weight: Tensor, channels: int) -> Tensor:
    """A convolution's weight (o, c, h, w) for images of another number of channels.

    Its channels are summed for one; else repeated in turn and scaled, so that images that are equal
    in all channels give what they gave (as timm's `adapt_input_conv` does).
    """
    theirs = weight.shape[1]
    if channels == 1:
        return weight.float().sum(dim=1, keepdim=True).to(weight.dtype)
    repeated = weight[:, [channel % theirs for channel in range(channels)]]
    return (repeated.float() * (theirs / channels)).to(weight.dtype)


def _check(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: str, called: str
) -> None:
    """Raises CheckpointError unless names and shapes are the encoder's."""
    counters = {name for name in expected if name.endswith("num_batches_tracked")}
    missing = [name for name in expected if name not in found and name not in counters]
    foreign = [name for name in found if name not in expected]
    misshapen = [
        f"{name} {tuple(found[name].shape)} where {tuple(own.shape)} is wanted"
        for name, own in expected.items() if name in found and found[name].shape != own.shape
    ]  # fmt: skip
    faults = [
        f"{what} {_some(names)}"
        for what, names in (
            ("lacks", missing), ("also has", foreign), ("has in another shape", misshapen),
        ) if names
    ]  # fmt: skip
    if faults:
        raise CheckpointError(
            f"{source} does not hold a {called}: it {'; it '.join(faults)}. Name the encoder that "
            "these weights are of."
        )


def _some(names: list[str]) -> str:
    """The first few, and how many there are if those are not all."""
    more = f", … ({len(names)} in all)" if len(names) > _MOST_NAMED else ""
    return f"{', '.join(names[:_MOST_NAMED])}{more}"
