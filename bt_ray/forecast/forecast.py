"""What a run will be, said before it starts: data, steps, memory, time, and what stands against it.

Nothing is written, and no Ray is started.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import psutil
import torch

from bt_ray.checkpoints.checkpoint import KEPT_CHECKPOINTS
from bt_ray.config import Settings, check_pretraining, idle_colours
from bt_ray.cpu.count import available_cpus
from bt_ray.data.preparation.prepare import SAME_IMAGES, Described, describe_data
from bt_ray.data.preparation.statistics import known_statistics
from bt_ray.data.stream.plan import Plan, build_plan
from bt_ray.errors import BtRayError, LaunchError
from bt_ray.forecast.memory import Size, find_fits, measure_size
from bt_ray.forecast.sample import Sample, decode_sample
from bt_ray.forecast.speed import WIDEST_ON_CPU, Speed, measure_speed
from bt_ray.method_presets import fit_to_data
from bt_ray.model.encoder.contract import check_encoder
from bt_ray.precision import Precision, precision_on
from bt_ray.ray_start import starts_here
from bt_ray.storage.names import folder_of, is_far
from bt_ray.storage.working_copy import pull
from bt_ray.training.arithmetic import begun_precision, with_precision
from bt_ray.training.cluster import check_gpus, cpus_needed, takes_gpu
from bt_ray.training.local import choose_device
from bt_ray.training.on_cpu import slow_precision
from bt_ray.training.run_folder import check_claim, check_storage, locate_storage, nearest_folder
from bt_ray.training.validation import holds_out, locate_validation, without_held_out

T = TypeVar("T")

_SAMPLE_S, _STEPS_S = 1.5, 2.0
_MB, _GB = 2**20, 2**30


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What can be said of a run beforehand; None is what cannot be.

    `problems` are the errors that the run would end with, all that were found; `warnings`
    are sentences about what it could still fail of.
    """

    run_folder: Path
    train: Described | None
    test: Described | None
    sample: Sample | None
    plan: Plan | None
    total_steps: int | None
    size: Size
    device: torch.device | None
    """What a worker computes on; None if that is not on this machine."""
    speed: Speed | None
    precision: Precision | None
    """Arithmetic of encoder and projector; None if only the cluster that it joins knows."""
    images_per_s: float | None
    """Of all workers, decoding included."""
    hours: float | None
    problems: tuple[BtRayError, ...]
    warnings: tuple[str, ...]


def forecast(settings: Settings) -> Forecast:
    """What the run of these settings will be, in less than ten seconds.

    Raises: SettingsError, LaunchError if the encoder cannot be built, or breaks its contract.
    """
    if not settings.model.is_built_in:
        check_encoder(settings)
    problems = list[BtRayError]()

    def attempt(check: Callable[[], T]) -> T | None:
        try:
            return check()
        except BtRayError as error:
            problems.append(error)
            return None

    attempt(lambda: check_pretraining(settings))
    settings = attempt(lambda: locate_storage(settings)) or settings
    run_folder = _run_folder(settings)
    attempt(lambda: check_storage(settings))
    train, test = attempt(lambda: describe_data(settings)) or (None, None)
    plan, sample, lowered = None, None, None
    begun = begun_precision(run_folder)
    if settings.training.precision == "auto" and begun is not None:
        settings = with_precision(settings, begun)
    if train is not None:
        settings, lowered = fit_to_data(settings, train.manifest.num_rows)
        plan = attempt(lambda: build_plan(settings, without_held_out(settings, train.manifest)))
        sample = decode_sample(train, settings, budget_s=_SAMPLE_S)
        if settings.data.on_bad_image == "stop":
            problems += sample.unreadable
        attempt(lambda: check_claim(run_folder, _prepared(settings, train, test)))
    device = attempt(lambda: find_device(settings))
    chosen = _precision(settings, device)
    settings = with_precision(settings, chosen or ("fp16" if device is None else "fp32"))
    size = measure_size(settings, None if train is None else train.manifest.num_rows)
    attempt(lambda: _check_space(settings, size, train, test))
    memory = None if device is None else _memory_warning(settings, size, device)
    speed = None
    if device is not None and memory is None and _is_timed(settings, device):
        speed = measure_speed(settings, device, threads=_threads(settings), budget_s=_STEPS_S)
    rate = _images_per_s(settings, device, speed, sample)
    slow = None
    if device is not None and device.type == "cpu" and settings.scaling.min_workers:
        slow = slow_precision(settings)  # without workers, `find_device` has said so
    total_steps = None if plan is None else settings.schedule.total_steps(plan.steps_per_epoch)
    hours = None
    if total_steps is not None and rate is not None:
        hours = total_steps * settings.data.global_batch / rate / 3600
    colours = idle_colours(settings)
    warnings = [memory, _cpu_warning(settings), slow, _same(train, test), colours, lowered]
    return Forecast(
        run_folder=run_folder,
        train=train,
        test=test,
        sample=sample,
        plan=plan,
        total_steps=total_steps,
        size=size,
        device=device,
        speed=speed,
        precision=chosen,
        images_per_s=rate,
        hours=hours,
        problems=tuple(problems),
        warnings=tuple(filter(None, warnings)),
    )


def _run_folder(settings: Settings) -> Path:
    """Where the run will be kept; of a far storage what is there already is looked at."""
    folder = folder_of(settings.storage) / settings.name
    pull(folder)
    return folder


def find_device(settings: Settings) -> torch.device | None:
    """What a worker of the run computes on; None if only the cluster that it joins knows.

    Raises: LaunchError if it needs more GPUs than this machine has, and would start here.
    """
    if settings.scaling.min_workers == 0:
        return choose_device(settings)
    if settings.scaling.accelerator == "cpu":
        return torch.device("cpu")
    if not starts_here():
        return None
    num_gpus = torch.cuda.device_count()
    if not takes_gpu(settings, num_gpus):
        return torch.device("cpu")
    check_gpus(settings, num_gpus)
    return torch.device("cuda")


def _precision(settings: Settings, device: torch.device | None) -> Precision | None:
    """The arithmetic of the run, if that is known here."""
    if settings.training.precision != "auto":
        return settings.training.precision
    on_cpus_elsewhere = settings.scaling.min_workers > 0 and not starts_here()
    if device is None or (device.type == "cpu" and on_cpus_elsewhere):
        return None
    return precision_on(settings.training, device)


def _is_timed(settings: Settings, device: torch.device) -> bool:
    """Whether a step takes a bearable time: CPUs compute fp16 a hundred times slower."""
    model = settings.model
    return device.type == "cuda" or (
        settings.training.precision != "fp16"
        and max(*model.projector_widths, *(model.predictor_widths or (0,))) <= WIDEST_ON_CPU
    )


def _prepared(settings: Settings, train: Described, test: Described | None) -> Settings:
    """The settings as `prepare_data` would return them."""
    test_root = None if test is None else test.root
    data = replace(settings.data, train=train.root, test=test_root)
    found = known_statistics(replace(settings, data=data), train.manifest)
    return found if train.source is not None else locate_validation(found)


def _same(train: Described | None, test: Described | None) -> str | None:
    """A sentence if the held-out images are the training images."""
    is_same = train is not None and test is not None and train.root == test.root
    return SAME_IMAGES if is_same else None


def _check_space(
    settings: Settings, size: Size, train: Described | None, test: Described | None
) -> None:
    """Raises LaunchError if checkpoints and shards do not fit into the storage."""
    shards = sum(part.bytes_to_write for part in (train, test) if part is not None)
    kept = KEPT_CHECKPOINTS + settings.training.selects
    checkpoints = kept * size.checkpoint_bytes
    if train is not None and holds_out(settings):
        shards += train.manifest.num_bytes  # both parts are written anew
    if is_far(settings.storage):
        return
    free = shutil.disk_usage(nearest_folder(Path(settings.storage))).free
    if shards + checkpoints > free:
        raise LaunchError(
            f"storage={settings.storage} has {free / _MB:,.0f} MB free; {kept} "
            f"checkpoints of {size.checkpoint_bytes / _MB:,.0f} MB and shards of "
            f"{shards / _MB:,.0f} MB are to be written. Make room, or give another --storage."
        )


def _memory_warning(settings: Settings, size: Size, device: torch.device) -> str | None:
    """A sentence if the workers need more memory than there is."""
    sharing = max(1, settings.scaling.min_workers) if device.type == "cpu" else 1
    copies = size.checkpoint_bytes if device.type == "cpu" else 0  # of the first worker's state
    needed = sharing * size.memory.total + copies
    if device.type == "cuda":
        there, whose = torch.cuda.get_device_properties(device).total_memory, "the GPU has"
    else:
        there, whose = psutil.virtual_memory().available, "this machine has free"
    if needed <= there:
        return None
    ways = "".join(
        f"{fit.options} needs {(sharing * fit.total_bytes + copies) / _GB:,.1f} GB. "
        for fit in find_fits(settings, (there - copies) / sharing)
    )
    return (
        f"{'A worker needs' if sharing == 1 else f'{sharing} workers need'} about "
        f"{needed / _GB:,.1f} GB of memory; {whose} {there / _GB:,.1f} GB. "
        f"{ways}{'Or lower' if ways else 'Lower'} "
        "data.global_batch or model.projector_widths, or use more machines."
    )


def _cpu_warning(settings: Settings) -> str | None:
    """A sentence if workers and decoding would have to share this machine's CPUs."""
    num_cpus, needed = available_cpus(), cpus_needed(settings)
    if settings.scaling.min_workers == 0 or not starts_here() or needed <= num_cpus:
        return None
    return (
        f"scaling.workers={settings.scaling.min_workers} × scaling.cpus_per_worker="
        f"{settings.scaling.cpus_per_worker:g} and reading data make {needed:g} CPUs; this "
        f"machine has {num_cpus}, which they would share."
    )


def _threads(settings: Settings) -> int:
    """Threads of all CPU workers together, as many as there are CPUs for."""
    num_cpus = available_cpus()
    if settings.scaling.min_workers == 0:
        return min(torch.get_num_threads(), num_cpus)
    each = settings.scaling.threads_per_worker or num_cpus
    return min(num_cpus, each * settings.scaling.min_workers)


def _images_per_s(
    settings: Settings, device: torch.device | None, speed: Speed | None, sample: Sample | None
) -> float | None:
    """Of all workers: on GPUs that of the slower of both, computing and decoding.

    Workers on the CPU take turns with the decoders, so that their times add up.
    """
    if device is None or speed is None or sample is None or sample.images_per_s is None:
        return None
    workers = max(1, settings.scaling.min_workers)
    decoders = 1 if settings.scaling.min_workers == 0 else available_cpus()
    decoding = sample.images_per_s * decoders
    if device.type == "cuda" and settings.scaling.min_workers:
        return min(speed.images_per_s * workers, decoding)
    return 1 / (1 / speed.images_per_s + 1 / decoding)
