"""How long a run will take on hardware that is not here, and what it will need of it.

Counted on shapes, for rates that others published (`rates`); nothing of it was measured. The host's
launches, the feed of images and the GPU run beside each other, so a step takes the longest of them.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Literal

from bt_ray.config import Settings
from bt_ray.data.stream.decode import bytes_of_views
from bt_ray.forecast.memory import Memory, measure_size
from bt_ray.forecast.network import Network
from bt_ray.forecast.overlap import Event, wait_in_backward
from bt_ray.forecast.place import Place
from bt_ray.forecast.rates import (
    COMMUNICATOR_BYTES,
    COMPUTE_SHARE,
    CONTEXT_BYTES,
    DECODED_PER_S,
    HOST_SHARE,
    LAUNCH_S,
    NORMS_BEFORE_LOSS,
    PASSES_OVER_CORRELATION,
    PHOTOMETRY_BYTES,
    PHOTOMETRY_LAUNCHES,
    Gpu,
    Recipe,
)
from bt_ray.forecast.roofline import memory_seconds, seconds
from bt_ray.forecast.trace import Operation, count_objective_launches, trace_model, trace_small
from bt_ray.objective.forms import choose_way

_FLOAT32_BYTES, _VIEWS = 4, 2
_CASTING_BYTES = 12
"""Read and written to cast a float32 gradient to half precision and back."""
_SUMS_OF_LOSS = 4
"""Small all-reduces of the loss, forward and backward: its statistics and terms."""

Limit = Literal["compute", "network", "input", "launches"]


@dataclass(frozen=True, kw_only=True)
class Parts:
    """A step's seconds on the GPU, one after the other."""

    forward: float
    backward: float
    exchanges: float
    """Waiting for batch norm's statistics, in both passes."""
    gradients: float
    """Waiting for the last gradients."""
    loss: float
    loss_network: float
    optimizer: float
    input: float
    """What copies and photometry add to it."""

    @property
    def total(self) -> float:
        """Seconds of all parts."""
        return float(sum(asdict(self).values()))

    @property
    def network(self) -> float:
        """Seconds of waiting for other GPUs."""
        return self.exchanges + self.gradients + self.loss_network


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a recipe will take at a place."""

    recipe: str
    images: int
    """Of one worker's step."""
    launches: int
    parts: Parts
    host_s: float
    """Of a step: the host's launches, which go on beside the GPU."""
    feed_s: float
    """Of a step: the copy to the GPU, or the node's images over its wire; also beside it."""
    images_per_s: float
    """Images in all their views, of all workers."""
    limit: Limit
    """What takes longest."""
    decoding_cores: float
    """Of all nodes together; with smaller views at most, as if an image's decoding, too, took
    longer by their pixels."""
    store_bytes_per_s: float
    """Decoded views that a node's object store takes in, and gives out again."""
    read_bytes_per_s: float
    """Encoded images, from the storage."""
    memory: dict[str, float]
    """Bytes on one GPU, by what they are for."""

    @property
    def step_s(self) -> float:
        """Seconds of a step."""
        return max(self.parts.total, self.host_s, self.feed_s)

    @property
    def memory_bytes(self) -> float:
        """Bytes on one GPU."""
        return sum(self.memory.values())

    def hours(self, total_steps: int) -> float:
        """Hours of so many steps, without probes and checkpoints."""
        return total_steps * self.step_s / 3600


def at_place(settings: Settings, place: Place) -> Settings:
    """The settings with a worker for each GPU, in the arithmetic that `auto` means there.

    Raises: SettingsError if the batch cannot be divided so.
    """
    training = settings.training
    if training.precision == "auto":
        training = replace(training, precision="bf16" if place.gpu.has_bf16 else "fp16")
    scaling = replace(settings.scaling, workers=place.workers)
    return replace(settings, training=training, scaling=scaling)


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What settings ask of one GPU, whatever the GPU, the network and the recipe."""

    images: int
    """Of one worker's step."""
    operations: list[Operation]
    """Of encoder and projector, in order."""
    small: list[Operation]
    """The same on smaller views, all of them at once; none if there are none."""
    loss_launches: int
    memory: Memory

    @property
    def num_norms(self) -> int:
        """Batch norms of encoder, projector and predictor."""
        return _count_norms(self.operations)

    @property
    def num_parameters(self) -> int:
        """Numbers that are trained."""
        return sum(op.gradient_bytes for op in self.operations) // _FLOAT32_BYTES


def _count_norms(operations: list[Operation]) -> int:
    return sum(op.kind == "batch_norm" and not op.is_backward for op in operations)


def count(settings: Settings) -> Counts:
    """What a worker of these settings computes and holds, in a few seconds."""
    images = settings.data.global_batch // max(1, settings.scaling.min_workers)
    return Counts(
        images=images,
        operations=trace_model(settings, images),
        small=trace_small(settings, images),
        loss_launches=count_objective_launches(settings),
        memory=measure_size(settings).memory,
    )


def predict(
    settings: Settings, place: Place, recipe: Recipe, counts: Counts, *, image_bytes: float
) -> Prediction:
    """What the recipe will take of the place.

    Args:
      settings: as `at_place` returns them.
      counts: of these settings.
      image_bytes: mean size of an encoded image.
    """
    parts, copy_s = _parts(settings, place, recipe, counts)
    launches = _launches(settings, place, recipe, counts)
    decoded_bytes = bytes_of_views(settings)
    host_s = launches * LAUNCH_S
    feed_s = max(copy_s, _wire_s(place, counts.images, image_bytes, decoded_bytes))
    taken: dict[Limit, float] = {
        "compute": parts.total - parts.network - parts.input,
        "network": parts.network,
        "input": max(feed_s, parts.input),
        "launches": host_s,
    }
    images_per_s = settings.data.global_batch / max(parts.total, host_s, feed_s)
    decoder = "Pillow" if recipe.photometry_by_pillow else settings.views.photometry
    return Prediction(
        recipe=recipe.name,
        images=counts.images,
        launches=launches,
        parts=parts,
        host_s=host_s,
        feed_s=feed_s,
        images_per_s=images_per_s,
        limit=max(taken, key=lambda name: taken[name]),
        decoding_cores=images_per_s * _share_of_pair(settings) / DECODED_PER_S[decoder],
        store_bytes_per_s=images_per_s / place.nodes * decoded_bytes,
        read_bytes_per_s=images_per_s * image_bytes,
        memory=_memory(settings, place, recipe, counts),
    )


def _parts(settings: Settings, place: Place, recipe: Recipe, counts: Counts) -> tuple[Parts, float]:
    """Where a step's seconds go on the GPU, and those of the copy to it."""
    gpu, network, operations = place.gpu, place.network, [*counts.operations, *counts.small]
    backward = [op for op in operations if op.is_backward]
    forward_s = sum(seconds(op, gpu, settings) for op in operations if not op.is_backward)
    backward_s = sum(seconds(op, gpu, settings) for op in backward)
    exchanges_s = 0.0
    if network.workers > 1:
        # DDP copies each gradient into its bucket, and may cast it …
        copying = 2 * _FLOAT32_BYTES + (_CASTING_BYTES if _sends_half(settings, recipe) else 0)
        backward_s += memory_seconds(copying * counts.num_parameters, gpu)
        # … and both views' rows are joined, half of it in each pass.
        joining_s = memory_seconds(recipe.norm_passes * _norm_bytes(operations), gpu)
        forward_s, backward_s = forward_s + joining_s / 2, backward_s + joining_s / 2
        exchanged = counts.num_norms + (NORMS_BEFORE_LOSS if recipe.whole_correlation else 0)
        exchanged = recipe.passes * exchanged + _count_norms(counts.small)
        exchanges_s = exchanged * network.latency_s
    waits = wait_in_backward(
        _events(counts, gpu, settings, recipe), network, own_communicator=recipe.own_communicator
    )
    loss_s, loss_network_s = _loss(settings, gpu, network, recipe)
    parts = Parts(
        forward=forward_s,
        backward=backward_s,
        exchanges=exchanges_s + waits.exchanges_s,
        gradients=waits.gradients_s,
        loss=loss_s,
        loss_network=loss_network_s,
        optimizer=memory_seconds(recipe.optimizer_bytes * counts.num_parameters, gpu),
        input=0.0,
    )
    copy_s, photometry_s = _input(settings, gpu, recipe, counts.images)
    # On a stream of its own, photometry is done while the GPU waits for the network, if it does.
    beside_s = max(0.0, photometry_s - parts.network)
    input_s = beside_s if recipe.side_stream else copy_s + photometry_s
    return replace(parts, input=input_s), copy_s


def _launches(settings: Settings, place: Place, recipe: Recipe, counts: Counts) -> int:
    """Operations that the host launches in a step."""
    of_norms = recipe.norm_launches - 2 if place.workers > 1 else 0  # two are among the others
    on_device = settings.views.photometry == "device" and not recipe.photometry_by_pillow
    passes = recipe.passes if place.workers > 1 else _VIEWS  # torch's batch norm takes one view
    sizes = 2 if counts.small else 1
    return (
        passes * (len(counts.operations) + of_norms * counts.num_norms)
        + len(counts.small)
        + of_norms * _count_norms(counts.small)
        + counts.loss_launches
        + _optimizer_launches(counts.operations, recipe)
        + (sizes * PHOTOMETRY_LAUNCHES if on_device else 0)
    )


def _events(counts: Counts, gpu: Gpu, settings: Settings, recipe: Recipe) -> Iterator[Event]:
    """The backward pass for the model of overlap; of views that passed apart, one by one.

    Then a parameter's gradient is complete when both views have added to it. Smaller views, which
    passed last, come first.
    """
    share_sent = 0.5 if _sends_half(settings, recipe) else 1.0
    ways = [(counts.small, 1), *[(counts.operations, recipe.passes)] * recipe.passes]
    for number, (operations, passes) in enumerate(ways, start=1):
        for op in operations:
            if op.is_backward:
                yield Event(
                    seconds=seconds(op, gpu, settings) / passes,
                    exchanges=op.kind == "batch_norm",
                    gradient_bytes=op.gradient_bytes if number == len(ways) else 0,
                    share_sent=share_sent,
                )


def _sends_half(settings: Settings, recipe: Recipe) -> bool:
    """Whether gradients travel in half precision."""
    return recipe.gradients_as_set and settings.training.gradient_dtype != "fp32"


def _loss(settings: Settings, gpu: Gpu, network: Network, recipe: Recipe) -> tuple[float, float]:
    """Seconds of the loss and its gradient: computing, and waiting for other workers."""
    n, d = settings.data.global_batch, settings.model.projector_widths[-1]
    w = network.workers
    waits_s = _SUMS_OF_LOSS * network.latency_s if w > 1 else 0.0
    if recipe.whole_correlation:
        is_half = settings.training.precision != "fp32"
        peak, size = (gpu.half_flops, 2) if is_half else (gpu.single_flops, _FLOAT32_BYTES)
        moving_s = memory_seconds(PASSES_OVER_CORRELATION * size * d**2, gpu)
        return 6 * n * d**2 / w / (COMPUTE_SHARE * peak) + moving_s, network.all_reduce_s(
            size * d**2
        )
    way = choose_way(settings.objective.form, num_samples=n, num_dimensions=d, num_workers=w)
    peak, size = COMPUTE_SHARE * gpu.single_flops, _FLOAT32_BYTES
    if way == "correlation":
        moving_s = memory_seconds(PASSES_OVER_CORRELATION * size * d**2, gpu)
        return 6 * n * d**2 / w / peak + moving_s, waits_s + network.all_reduce_s(size * d**2)
    computing_s = 8 * n**2 * d / w / peak
    if way == "gram_rows":
        return computing_s, waits_s + network.all_gather_s(2 * size * n * d)
    there_and_back_s = 4 * network.all_to_all_s(size * n * d / w)
    return computing_s, waits_s + there_and_back_s + network.all_reduce_s(2 * size * n**2)


def _input(settings: Settings, gpu: Gpu, recipe: Recipe, images: int) -> tuple[float, float]:
    """Seconds of the copy of a step's views to the GPU, and of photometry on it."""
    level_bytes = settings.data.bit_depth // 8
    values = images * bytes_of_views(settings) // level_bytes
    sent = values * (_FLOAT32_BYTES if recipe.photometry_by_pillow else level_bytes)
    copy_s = sent / (HOST_SHARE * gpu.host_bytes_per_s)
    on_device = settings.views.photometry == "device" and not recipe.photometry_by_pillow
    return copy_s, memory_seconds(PHOTOMETRY_BYTES * values, gpu) if on_device else 0.0


def _share_of_pair(settings: Settings) -> float:
    """Pixels of all views of an image by those of the two."""
    alone = replace(settings, views=replace(settings.views, small_count=0))
    return bytes_of_views(settings) / bytes_of_views(alone)


def _wire_s(place: Place, images: int, image_bytes: float, decoded_bytes: float) -> float:
    """Seconds in which a node's wire takes in the images of its GPUs' step.

    Encoded ones come from the storage; of the decoded ones, those that other nodes decoded.
    """
    if place.nodes == 1:
        return 0.0
    others = (place.nodes - 1) / place.nodes
    return place.gpus * images * (image_bytes + others * decoded_bytes) / place.wire.bytes_per_s


def _optimizer_launches(operations: list[Operation], recipe: Recipe) -> int:
    """LARS' kernels: matrices are the weights of convolutions and products, the rest vectors."""
    matrices = sum(
        op.kind in ("convolution", "product") and not op.is_backward for op in operations
    )
    vectors = 2 * sum(op.kind == "batch_norm" and not op.is_backward for op in operations)
    of_each = recipe.matrix_launches * matrices + recipe.vector_launches * vectors
    return of_each + recipe.optimizer_launches


def _norm_bytes(operations: list[Operation]) -> float:
    """Bytes of the rows that pass through all batch norms, once."""
    forward = (op for op in operations if op.kind == "batch_norm" and not op.is_backward)
    return sum(op.operand_bytes / 2 for op in forward)  # they come and go


def _memory(settings: Settings, place: Place, recipe: Recipe, counts: Counts) -> dict[str, float]:
    """Bytes by part: the model's, and what surrounds it on a GPU."""
    size: dict[str, float] = asdict(counts.memory)
    if recipe.whole_correlation:
        d = settings.model.projector_widths[-1]
        size["objective"] = _FLOAT32_BYTES * (6 * counts.images * d + 2 * d**2)
    communicators = (2 if recipe.own_communicator else 1) if place.workers > 1 else 0
    return size | {
        "optimizer": float(recipe.temporary_bytes * counts.num_parameters),
        "communicators": communicators * COMMUNICATOR_BYTES,
        "context": CONTEXT_BYTES,
    }
