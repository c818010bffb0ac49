"""What a run will be on hardware that is not here, printed: `pretrain PRESET --dry-run --on …`."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.table import Table

from bt_ray.config import Settings, check_pretraining, in_use
from bt_ray.errors import BtRayError, DataError, LaunchError, SettingsError
from pipelines.terminal import console, exit_code, finish, guarded, show_error

if TYPE_CHECKING:
    from bt_ray.forecast.images import Images
    from bt_ray.forecast.place import Place
    from bt_ray.forecast.planner import Prediction
    from bt_ray.forecast.rates import Recipe

_MS, _MB, _GB = 1e-3, 1e6, 1e9
_PARTS = {
    "forward": "encoder and projector, forward",
    "backward": "the same, backward",
    "exchanges": "batch norm's exchanges",
    "loss": "loss",
    "loss_network": "loss, network",
    "gradients": "gradients' sum, what is not hidden",
    "optimizer": "LARS",
    "input": "input, what is not hidden",
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A run on hardware that is not here."""

    settings: Settings
    """With a worker for each GPU."""
    place: "Place"
    images: "Images"
    predictions: tuple["Prediction", "Prediction"]
    """This run's, and that of the same recipe written plainly."""
    by_rdma: "Prediction | None"
    """This run's, if the same Ethernet were used by RDMA."""
    by_half: "Prediction | None"
    """This run's, if gradients travelled in half precision; where the network takes longest."""
    problems: tuple[BtRayError, ...]

    @property
    def total_steps(self) -> int:
        """Of the whole schedule."""
        return self.settings.schedule.total_steps(self.images.steps_per_epoch)


def plan_run(settings: Settings, *, preset_settings: Settings, on: str) -> int:
    """Prints what the run will take on the hardware that `on` names, and a line of JSON.

    Args:
      preset_settings: what the settings are compared with.
    Returns: the exit code, 0 if nothing stands against the run.
    """
    own_images = settings.data.train != preset_settings.data.train
    with console.status("Counting operations"):
        plan = guarded(lambda: _make_plan(settings, on, own_images))
    _print_changes(plan.settings, preset_settings)
    _print_predictions(plan)
    _print_notes(plan)
    for error in plan.problems:
        show_error(error)
    finish(_record(plan))
    return max((exit_code(error) for error in plan.problems), default=0)


def _make_plan(settings: Settings, on: str, own_images: bool) -> Plan:
    """Raises SettingsError if `on` cannot be read, or the batch not be divided among its GPUs."""
    from bt_ray.forecast.place import parse_place
    from bt_ray.forecast.planner import at_place, count, predict
    from bt_ray.forecast.rates import OURS, PLAIN

    place = parse_place(on)
    settings = at_place(settings, place)
    images, problems = _find_images(settings, own_images)
    counts = count(settings)

    def ask(place: "Place", recipe: "Recipe") -> "Prediction":
        return predict(settings, place, recipe, counts, image_bytes=images.mean_bytes)

    ours, plain = ask(place, OURS), ask(place, PLAIN)
    is_tcp = place.nodes > 1 and place.wire.kind == "GbE"
    by_half = None
    if ours.limit == "network" and settings.training.gradient_dtype == "fp32":
        training = replace(settings.training, gradient_dtype=_half(settings))
        halved = replace(settings, training=training)
        by_half = predict(halved, place, OURS, counts, image_bytes=images.mean_bytes)
    return Plan(
        settings=settings,
        place=place,
        images=images,
        predictions=(ours, plain),
        by_rdma=ask(place.with_rdma(), OURS) if is_tcp else None,
        by_half=by_half,
        problems=(*problems, *_problems(settings, place, ours)),
    )


def _half(settings: Settings) -> Literal["bf16", "fp16"]:
    """The half precision that goes with the encoder's."""
    return "bf16" if settings.training.precision == "bf16" else "fp16"


def _find_images(settings: Settings, are_named: bool) -> tuple["Images", list[BtRayError]]:
    """The images that are named or at hand, else ImageNet's; and what stands against the former."""
    from bt_ray.forecast.images import imagenet_images, named_images

    if not are_named and not Path(settings.data.train).expanduser().exists():
        return imagenet_images(settings), []
    try:
        return named_images(settings), []
    except DataError as error:
        return imagenet_images(settings), [error]


def _problems(settings: Settings, place: "Place", ours: "Prediction") -> list[BtRayError]:
    """What stands against running these settings there."""
    problems = list[BtRayError]()
    try:
        check_pretraining(settings)
    except SettingsError as error:
        problems.append(error)
    gpu = place.gpu
    if settings.training.precision == "bf16" and not gpu.has_bf16:
        problems.append(SettingsError(f"training.precision=bf16: a {gpu.name} has none; use fp16."))
    if ours.memory_bytes > gpu.memory_bytes:
        problems.append(
            LaunchError(
                f"It does not fit: a worker needs about {ours.memory_bytes / _GB:,.1f} GB, a "
                f"{gpu.name} has {gpu.memory_bytes / _GB:,.1f} GB. Use more GPUs, or lower "
                "data.global_batch or model.projector_widths."
            )
        )
    return problems


def _print_changes(settings: Settings, preset_settings: Settings) -> None:
    theirs = in_use(preset_settings)
    mine = in_use(settings)
    changed = {key: value for key, value in mine.items() if value != theirs.get(key)}
    words = [f"{key}={value} (instead of {theirs.get(key)})" for key, value in changed.items()]
    if words:
        sentence = f"Settings that differ: {', '.join(words)}"
        console.print(sentence, soft_wrap=True, highlight=False)


def _print_predictions(plan: Plan) -> None:
    """A column a recipe."""
    predictions, total_steps, gpu = plan.predictions, plan.total_steps, plan.place.gpu
    table = Table(title=f"{plan.settings.name} on {plan.place}: predicted, not measured")
    table.add_column("")
    for prediction in predictions:
        table.add_column(prediction.recipe, justify="right")

    def add(name: str, show: Callable[["Prediction"], str], style: str = "") -> None:
        table.add_row(name, *map(show, predictions), style=style)

    for part, words in _PARTS.items():
        add(words, lambda p, part=part: f"{getattr(p.parts, part) / _MS:,.1f} ms")  # type: ignore[misc]
    table.add_section()
    add("the GPU's step", lambda p: f"{p.parts.total / _MS:,.1f} ms")
    add("beside it: launches by the host", lambda p: f"{p.host_s / _MS:,.1f} ms ({p.launches:,})")
    add("beside it: images to node and GPU", lambda p: f"{p.feed_s / _MS:,.1f} ms")
    add("a step", lambda p: f"{p.step_s:.3f} s", style="bold")
    add("what takes longest", lambda p: p.limit)
    table.add_section()
    add("images/s, two views each", lambda p: f"{p.images_per_s:,.0f}", style="bold")
    add(f"hours of {total_steps:,} steps", lambda p: f"{p.hours(total_steps):,.1f}", style="bold")
    add("cores that decode, in all", lambda p: f"{p.decoding_cores:,.0f}")
    add("views into a node's object store", lambda p: f"{p.store_bytes_per_s / _MB:,.0f} MB/s")
    add("images read from the storage", lambda p: f"{p.read_bytes_per_s / _MB:,.0f} MB/s")
    table.add_section()
    for part in predictions[0].memory:
        add(f"memory: {part}", lambda p, part=part: f"{p.memory[part] / _GB:,.2f} GB")  # type: ignore[misc]
    add(
        f"of the GPU's {gpu.memory_bytes / _GB:,.0f} GB",
        lambda p: f"{p.memory_bytes / _GB:,.2f} GB",
        style="bold",
    )
    console.print(table)


def _print_notes(plan: Plan) -> None:
    """What was assumed, and what a faster use of the same wire would give."""
    from bt_ray.forecast.rates import OURS, PLAIN

    place, images = plan.place, plan.images
    whose = "Assumed, as data.train names none here" if images.are_assumed else "Counted"
    console.print(
        f"{whose}: {images.count:,} images of {images.mean_bytes / 1000:,.0f} KB, "
        f"{images.steps_per_epoch:,} steps an epoch.",
        soft_wrap=True,
    )
    console.print(
        f"“{OURS.name}” is what the budget in docs/performance.md allows; “{PLAIN.name}” is the "
        "paper's method in torch's own parts, in the same precision. Without probes and "
        "checkpoints. Rates and sources: bt_ray/forecast/rates.py.",
        soft_wrap=True, highlight=False,
    )  # fmt: skip

    def say(how: str, prediction: "Prediction | None") -> None:
        if prediction is not None:
            console.print(
                f"{how} this run takes {prediction.step_s:.3f} s a step, "
                f"{prediction.images_per_s:,.0f} images/s, "
                f"{prediction.hours(plan.total_steps):,.1f} hours.",
                soft_wrap=True, highlight=False,
            )  # fmt: skip

    reached = f"{place.wire.bytes_per_s / _GB:.1f} GB/s"
    say(f"GbE means TCP, of which NCCL gets {reached}. By RDMA (--on '… RoCE')", plan.by_rdma)
    say(f"With --training.gradient-dtype {_half(plan.settings)}", plan.by_half)


def _record(plan: Plan) -> dict[str, Any]:
    """The plan for programs."""
    ours, images, total_steps = plan.predictions[0], plan.images, plan.total_steps
    return {
        "run_id": None,
        "on": str(plan.place),
        "workers": plan.place.workers,
        "steps": total_steps,
        "steps_per_epoch": images.steps_per_epoch,
        "images": {
            "count": images.count, "bytes": images.mean_bytes, "assumed": images.are_assumed,
        },
        "step_s": ours.step_s,
        "images_per_s": round(ours.images_per_s, 3),
        "hours": ours.hours(total_steps),
        "limit": ours.limit,
        "fits": ours.memory_bytes <= plan.place.gpu.memory_bytes,
        "predictions": {p.recipe: _numbers(p, total_steps) for p in plan.predictions},
        "by_rdma": None if plan.by_rdma is None else _numbers(plan.by_rdma, total_steps),
        "by_half": None if plan.by_half is None else _numbers(plan.by_half, total_steps),
        "problems": [str(error) for error in plan.problems],
    }  # fmt: skip


def _numbers(prediction: "Prediction", total_steps: int) -> dict[str, Any]:
    return asdict(prediction) | {
        "step_s": prediction.step_s,
        "hours": prediction.hours(total_steps),
        "memory_bytes": prediction.memory_bytes,
    }
