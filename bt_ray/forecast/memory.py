"""How much memory a worker needs, counted without computing anything."""

import math
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from bt_ray.config import Settings
from bt_ray.config.model import SMALL_ENCODERS
from bt_ray.config.training import part_rows
from bt_ray.forecast.fake import fake_twins
from bt_ray.model.recompute import find_stages, recompute_blocks
from bt_ray.model.twins import Twins
from bt_ray.objective.forms import choose_way
from bt_ray.precision import autocast

_FLOAT32_BYTES = 4
_LEVELS, _LEVELS_FINISHED_HERE = 2, 4
"""Bytes for a level of a view: this batch's and the next one's, and two buffers of the next one's
photometry if the device does it (`data.stream.feed`, `data.views.photometry.fused`)."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes that one worker holds at its fullest, at the start of the backward pass.

    What the arithmetic's own kernels need for a moment is not among them.
    """

    weights: int
    gradients: int
    momentum: int
    activations: int
    """What encoder and projector keep for the backward pass, of all views. In parts
    (`training.micro_batch`): the representations of all rows and their gradients, and either what
    the projector keeps of all or what the encoder keeps of a part, whichever is more. With
    `training.activation_checkpointing`, of the encoder's blocks: their inputs, and what the largest
    block keeps while it is computed again."""
    objective: int
    """Embeddings and their gradients, and what the objective makes of them: standardised copies
    and the D×D matrix with its gradient, or a worker's share of the Gram matrices."""
    views: int
    """All views as they come, with the next batch's, which are on their way, and normalised, of
    a part alone if there are parts."""

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
    rows = math.ceil(settings.data.global_batch / max(1, settings.scaling.min_workers))
    rows = max(2, rows)  # what batch norm without its other workers can do
    with fake_twins(settings) as twins:
        known = _storages([*twins.parameters(), *twins.buffers()])
        weights = sum(known.values())
        if settings.training.average_decay is not None:
            encoder = twins.encoder
            weights += sum(_storages([*encoder.parameters(), *encoder.buffers()]).values())
        levels_bytes = _LEVELS_FINISHED_HERE if settings.views.photometry == "device" else _LEVELS
        at_once = max(2, *part_rows(rows, settings.training.micro_batch))
        parameters = _FLOAT32_BYTES * (count_parameters(twins))
        return Size(
            encoder_parameters=count_parameters(twins.encoder),
            projector_parameters=count_parameters(twins.projector),
            memory=Memory(
                weights=weights,
                gradients=parameters,
                momentum=parameters * (2 if settings.optimizer.kind == "adamw" else 1),
                activations=_activations(twins, settings, rows),
                objective=objective_bytes(settings) + _small_embedding_bytes(settings, rows),
                views=_values(settings) * (levels_bytes * rows + _FLOAT32_BYTES * at_once),
            ),
        )


def _values(settings: Settings) -> int:
    """Numbers in all views of an image."""
    views = settings.views
    num_pixels = 2 * views.image_px**2 + views.small_count * views.small_px**2
    return settings.data.channels * num_pixels


def _small_embedding_bytes(settings: Settings, rows: int) -> int:
    """Of the embeddings of `rows` images' smaller views, and their gradients."""
    width = settings.model.projector_widths[-1]
    return _FLOAT32_BYTES * 2 * rows * settings.views.small_count * width


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A way to train on the same batch in less memory."""

    micro_batch: int | None
    activation_checkpointing: bool
    total_bytes: int

    @property
    def options(self) -> str:
        """As they are given on the command line."""
        parts = "" if self.micro_batch is None else f"--training.micro-batch {self.micro_batch} "
        again = "--training.activation-checkpointing" * self.activation_checkpointing
        return f"{parts}{again}".strip()


def find_fits(settings: Settings, limit_bytes: float) -> list[Fit]:
    """Ways that a worker has memory for, by our own count; none if there is no such.

    First to compute blocks again, which changes no result; then parts as large as fit, with blocks
    that are computed again only if they must be.
    """
    encodes_blocks = settings.model.encoder not in SMALL_ENCODERS
    rows = math.ceil(settings.data.global_batch / max(1, settings.scaling.min_workers))
    sizes = sorted({max(part_rows(rows, math.ceil(rows / n))) for n in range(2, rows // 2 + 1)})
    sizes = [size for size in sizes if 1 not in part_rows(rows, size)]
    fits = []
    if encodes_blocks and (fit := _fit(settings, None, True)).total_bytes <= limit_bytes:
        fits.append(fit)
    for again in (False, True) if encodes_blocks else (False,):
        totals = partial(_total, settings, again)
        if number := bisect_right(sizes, limit_bytes, key=totals):
            return [*fits, _fit(settings, sizes[number - 1], again)]
    return fits


def _fit(settings: Settings, size: int | None, again: bool) -> Fit:
    return Fit(
        micro_batch=size,
        activation_checkpointing=again,
        total_bytes=_total(settings, again, size),
    )


def _total(settings: Settings, again: bool, size: int | None) -> int:
    training = replace(settings.training, micro_batch=size, activation_checkpointing=again)
    return measure_size(replace(settings, training=training)).memory.total


def _activations(twins: Twins, settings: Settings, rows: int) -> int:
    """Bytes that are kept of all views of `rows` images at the fullest, by the model alone."""
    training = settings.training
    most = max(2, *part_rows(rows, training.micro_batch))
    known = set(_storages([*twins.parameters(), *twins.buffers()]))
    views, small = _empty_views(settings, most)
    known |= _storages([*views, *small]).keys()
    largest = 0
    with autocast(training, torch.device("cpu")):
        if training.activation_checkpointing:
            at_once = settings.scaling.min_workers > 1 and not settings.model.stop_gradient
            largest = (2 if at_once else 1) * _largest_block(twins.encoder, views[0])
            recompute_blocks(twins.encoder)
        with saved_storages() as of_encoder:
            ends = [*twins.represent(*views), *(twins.encoder(view) for view in small)]
        if most < rows:
            ends = [end.new_empty(end.shape[0] // most * rows, end.shape[1]) for end in ends]
            ends = [end.requires_grad_() for end in ends]
        with saved_storages() as of_projector:
            embeddings = [*twins.project(*ends[:2]), *(twins.projector(end) for end in ends[2:])]
    known |= _storages(embeddings).keys()
    encoder = {key: size for key, size in of_encoder.items() if key not in known}
    projector = {key: size for key, size in of_projector.items() if key not in known}
    if most == rows:
        return sum((encoder | projector).values()) + largest
    whole = sum(_storages(ends).values())
    for end in ends:
        projector.pop(end.untyped_storage()._cdata, None)
    return 2 * whole + max(sum(encoder.values()) + largest, sum(projector.values()))


def _empty_views(settings: Settings, rows: int) -> tuple[list[Tensor], list[Tensor]]:
    """Both views of `rows` images; in one more tensor, if there are such, the smaller ones."""
    channels, views = settings.data.channels, settings.views
    pair = [torch.empty(rows, channels, views.image_px, views.image_px) for _ in range(2)]
    if not views.small_count:
        return pair, []
    small_px = views.small_px
    return pair, [torch.empty(rows * views.small_count, channels, small_px, small_px)]


def _largest_block(encoder: nn.Module, view: Tensor) -> int:
    """The most that a block keeps of its own forward, besides its input and its output."""
    inputs: dict[nn.Module, Tensor] = {}

    def note(block: nn.Module, arguments: tuple[Tensor]) -> None:
        inputs[block] = arguments[0].detach().requires_grad_()

    blocks = [block for stage in find_stages(encoder).values() for block in stage]
    hooks = [block.register_forward_pre_hook(note) for block in blocks]
    encoder(view)
    for hook in hooks:
        hook.remove()
    sizes = []
    for block, x in inputs.items():
        with saved_storages() as kept:
            output = block(x)
        known = _storages([*block.parameters(), *block.buffers(), x, output])
        sizes.append(sum(size for key, size in kept.items() if key not in known))
    return max(sizes)


def objective_bytes(settings: Settings) -> int:
    """Bytes of one worker's embeddings, their gradients, and the form of the loss it computes."""
    num_samples, width = settings.data.global_batch, settings.model.projector_widths[-1]
    workers = max(1, settings.scaling.min_workers)
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
