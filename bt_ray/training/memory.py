"""How much memory a worker needs, counted without computing anything."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from bt_ray.config import Settings
from bt_ray.model.twins import build_twins
from bt_ray.objective.barlow import BarlowTwins
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
    """Embeddings, what the objective keeps, and the gradient of the D×D correlation matrix."""
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
    px, width = settings.views.image_px, settings.model.projector_widths[-1]
    with FakeTensorMode():
        twins = build_twins(settings.model)
        views = [torch.empty(rows, 3, px, px) for _ in range(2)]
        weights = _storages([*twins.parameters(), *twins.buffers()])
        with saved_storages() as kept, autocast(settings.training, torch.device("cpu")):
            z_a, z_b = twins(*views)
        with saved_storages() as kept_by_objective:
            BarlowTwins(settings.objective.redundancy_weight)(z_a, z_b)
        embeddings = _storages([z_a, z_b])
        normalised = _storages(views)
        known = weights | embeddings | normalised
        objective = (kept_by_objective | embeddings).keys() - kept.keys()
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
                objective=sum((kept_by_objective | embeddings)[key] for key in objective)
                + _FLOAT32_BYTES * width**2,
                views=sum(normalised.values()) + 2 * rows * 3 * px**2 * levels_bytes,
            ),
        )


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
