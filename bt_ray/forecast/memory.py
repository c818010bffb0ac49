"""How much memory a worker needs, counted without computing anything."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from bt_ray.config import Settings
from bt_ray.model.twins import build_twins
from bt_ray.objective.forms import choose_way
from bt_ray.precision import autocast

_FLOAT32_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes that one worker holds at its fullest, at the start of the backward pass.

    What the arithmetic's own kernels need for a moment is not among them.
    """

    weights: int
    gradients: int
    momentum: int
    activations: int
    """What encoder and projector keep for the backward pass, of both views."""
    objective: int
    """Embeddings and their gradients, and what the objective makes of them: standardised copies
    and the D×D matrix with its gradient, or a worker's share of the Gram matrices."""
    views: int
    """The two views as they come, and normalised."""

    @property
    def total(self) -> int:
        """Sum of all parts."""
        return sum(asdict(self).values())


@dataclass(frozen=True, kw_only=True)
class Size:
    """Parameters of the two parts of the model, and a worker's memory."""

    encoder_parameters: int
    projector_parameters: int
    memory: Memory

    @property
    def checkpoint_bytes(self) -> int:
        """Of one checkpoint: weights and momentum."""
        return self.memory.weights + self.memory.momentum


def measure_size(settings: Settings) -> Size:
    """Parameters and memory, from one forward of a worker's whole part of a batch.

    It runs on torch's fake tensors, which have shapes and storages but no memory.
    """
    rows = settings.data.global_batch // max(1, settings.scaling.workers)
    rows = max(2, rows)  # what batch norm without its other workers can do
    px = settings.views.image_px
    with FakeTensorMode():
        twins = build_twins(settings.model)
        views = [torch.empty(rows, 3, px, px) for _ in range(2)]
        weights = _storages([*twins.parameters(), *twins.buffers()])
        with saved_storages() as kept, autocast(settings.training, torch.device("cpu")):
            z_a, z_b = twins(*views)
        embeddings = _storages([z_a, z_b])
        normalised = _storages(views)
        known = weights | embeddings | normalised
        levels_bytes = _FLOAT32_BYTES if settings.views.photometry == "device" else 1
        parameters = _FLOAT32_BYTES * (count_parameters(twins))
        return Size(
            encoder_parameters=count_parameters(twins.encoder),
            projector_parameters=count_parameters(twins.projector),
            memory=Memory(
                weights=sum(weights.values()),
                gradients=parameters,
                momentum=parameters,
                activations=sum(size for key, size in kept.items() if key not in known),
                objective=objective_bytes(settings),
                views=sum(normalised.values()) + 2 * rows * 3 * px**2 * levels_bytes,
            ),
        )


def objective_bytes(settings: Settings) -> int:
    """Bytes of one worker's embeddings, their gradients, and the form of the loss it computes."""
    num_samples, width = settings.data.global_batch, settings.model.projector_widths[-1]
    workers = max(1, settings.scaling.workers)
    rows = num_samples // workers
    variant = settings.objective.variant
    if variant == "invariance_only":  # the diagonal of C alone
        return _FLOAT32_BYTES * 6 * rows * width
    if variant == "cross_entropy":  # C, its exponents, and the gradients of both
        return _FLOAT32_BYTES * (6 * rows * width + 4 * width**2)
    way = choose_way(
        settings.objective.form,
        num_samples=num_samples,
        num_dimensions=width,
        num_workers=workers,
    )
    held = {
        "correlation": 2 * rows * width + 2 * width**2,
        "gram_rows": 2 * (num_samples * width if workers > 1 else 0) + 2 * rows * num_samples,
        "gram_columns": 2 * (rows * width if workers > 1 else 0) + 2 * num_samples**2,
    }[way]
    return _FLOAT32_BYTES * (4 * rows * width + held)


def count_parameters(module: nn.Module) -> int:
    """Trained numbers of a module."""
    return sum(parameter.numel() for parameter in module.parameters())


@contextmanager
def saved_storages() -> Iterator[dict[int, int]]:
    """Bytes of each storage that autograd keeps for the backward pass, by the storage's key."""
    kept: dict[int, int] = {}
    alive: list[Tensor] = []  # so that no key is given twice

    def pack(tensor: Tensor) -> Tensor:
        kept.update(_storages([tensor]))
        alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


def _storages(tensors: list[Tensor]) -> dict[int, int]:
    storages = [tensor.untyped_storage() for tensor in tensors]
    return {storage._cdata: storage.nbytes() for storage in storages}
