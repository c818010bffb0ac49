"""The operations of a model's forward and backward pass, counted without computing anything."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from bt_ray.config import Settings
from bt_ray.forecast.fake import fake_encoder, fake_twins
from bt_ray.objective.build import build_objective
from bt_ray.precision import autocast

Kind = Literal["convolution", "product", "batch_norm", "other"]
_NAMES: dict[str, Kind] = {
    "convolution": "convolution",
    "mm": "product",
    "addmm": "product",
    "batch_norm": "batch_norm",
}
_FLOAT32_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One call of a kernel, or of a few that belong together."""

    name: str
    kind: Kind
    is_backward: bool
    flops: float
    operand_bytes: float
    """Of all tensors that go in and come out, each once."""
    gradient_bytes: int = 0
    """Of parameters whose gradients are complete with it, in float32."""


def trace_model(settings: Settings, images: int) -> list[Operation]:
    """Encoder and projector on both views of so many images, forward and backward, in order.

    The stop-gradient is left out: both views have gradients.
    """
    px = settings.views.image_px
    record = _Record()
    with fake_twins(settings) as twins, record:
        record.begin(twins)
        with _autocast(settings):
            embeddings = twins.projector(
                twins.encoder(torch.empty(2 * images, settings.data.channels, px, px))
            )
            if twins.predictor is not None:
                embeddings = torch.cat([twins.predictor(embeddings[:images]), embeddings[images:]])
        record.turn_back(embeddings)
    return record.operations


def trace_small(settings: Settings, images: int) -> list[Operation]:
    """Encoder and projector on all smaller views of so many images at once; empty without any.

    Gradients are not complete with it: they wait for the two views' pass.
    """
    count, px = settings.views.small_count, settings.views.small_px
    if not count:
        return []
    record = _Record()
    with fake_twins(settings) as twins, record:
        record.begin(twins)
        with _autocast(settings):
            views = torch.empty(count * images, settings.data.channels, px, px)
            embeddings = twins.projector(twins.encoder(views))
        record.turn_back(embeddings)
    return [replace(op, gradient_bytes=0) for op in record.operations]


def trace_encoder(settings: Settings, images: int) -> list[Operation]:
    """The encoder alone on so many images, forward and backward, as a classifier's."""
    px = settings.views.image_px
    record = _Record()
    with fake_encoder(settings) as encoder, record:
        record.begin(encoder)
        with _autocast(settings):
            features = encoder(torch.empty(images, settings.data.channels, px, px))
        record.turn_back(features)
    return record.operations


def _autocast(settings: Settings) -> torch.autocast:
    """What a GPU computes in; `auto` is half precision on all that are worth a plan."""
    training = settings.training
    if training.precision == "auto":
        training = replace(training, precision="fp16")
    return autocast(training, torch.device("cpu"))


def count_objective_launches(settings: Settings) -> int:
    """Operations of the loss and its gradient; of one worker's form of it."""
    rows, width = settings.data.global_batch, settings.model.projector_widths[-1]
    record = _Record()
    with FakeTensorMode(), record:
        z_a, z_b = (torch.empty(rows, width, requires_grad=True) for _ in range(2))
        record.begin(nn.Identity())
        record.turn_back(build_objective(settings.objective)(z_a, z_b).loss)
    return len(record.operations)


class _Record(TorchDispatchMode):
    """Lists what is called between `begin` and `turn_back`, which runs the backward pass."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[Operation] = []
        self._is_on = self._is_backward = False

    def begin(self, module: nn.Module) -> None:
        self._is_on = True
        for parameter in module.parameters():
            parameter.register_post_accumulate_grad_hook(self._complete)

    def turn_back(self, output: Tensor) -> None:
        gradient = torch.empty_like(output)
        self._is_backward = True
        output.backward(gradient)
        self._is_on = False

    def _complete(self, parameter: Tensor) -> None:
        last = self.operations[-1]
        size = _FLOAT32_BYTES * parameter.numel()
        self.operations[-1] = replace(last, gradient_bytes=last.gradient_bytes + size)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if self._is_on and func.namespace == "aten":
            operation = self._describe(func, args, kwargs, output)
            if operation is not None:
                self.operations.append(operation)
        return output

    def _describe(
        self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any
    ) -> Operation | None:
        """The call as an operation; None for one that launches nothing: a view, an empty tensor."""
        name = func._schema.name.removeprefix("aten::")
        came, made = _tensors((args, kwargs)), _tensors(output)
        if not made or "empty" in name or (not func._schema.is_mutable and _share(came, made)):
            return None
        packet = func._overloadpacket
        flops = (
            flop_registry[packet](*args, **kwargs, out_val=output) if packet in flop_registry else 0
        )
        return Operation(
            name=name,
            kind=next((kind for key, kind in _NAMES.items() if key in name), "other"),
            is_backward=self._is_backward,
            flops=flops,
            operand_bytes=sum(tensor.nbytes for tensor in (*came, *made)),
        )


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _share(came: list[Tensor], made: list[Tensor]) -> bool:
    """Whether all that was made lies where something lay that came."""
    places = {tensor.untyped_storage()._cdata for tensor in came}
    return all(tensor.untyped_storage()._cdata in places for tensor in made)
