"""The digest of a stream tells whether two runs were trained on the same data."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from bt_ray.config import Settings, override
from bt_ray.data.shards.manifest import Manifest
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.stream.batches import local_batches
from bt_ray.data.stream.decode import draw_all
from bt_ray.data.stream.digest import MODULUS, digest_rows, to_text
from bt_ray.data.stream.plan import build_plan
from bt_ray.data.views.draw import ViewParameters
from bt_ray.presets import preset
from tests.data.views.test_views import draw

STEPS = 6


def digest_of(settings: Settings, *cuts: int, workers: int = 1) -> str:
    """Of a run of six steps that was cut at some of them and shared by some workers."""
    shards, total = ShardSet.open(settings.data.train), 0
    for start, stop in zip((0, *cuts), (*cuts, STEPS), strict=True):
        for rank in range(workers):
            batches = local_batches(
                settings, shards, start=start, stop=stop, device=torch.device("cpu"),
                rank=rank, world_size=workers,
            )  # fmt: skip
            total += sum(batch.digest for batch in batches)
    return to_text(total)


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("cuts", [(), (1,), (2,), (5,), (1, 3, 4)])
def test_neither_workers_nor_interruptions_change_it(
    small_settings: Settings, workers: int, cuts: tuple[int, ...]
) -> None:
    assert digest_of(small_settings, *cuts, workers=workers) == digest_of(small_settings)


@pytest.mark.parametrize(
    "changes",
    [
        {"training.seed": 1},
        {"data.global_batch": 120},
        {"views.crop_area": [0.6, 1.0]},
        {"views.jitter_hue": 0.11},
        {"views.solarize_probability": [0.0, 0.5]},
        {"views.vertical_flip_probability": 0.5},
        {"views.quarter_turns": True},
        {"views.rotation_degrees": 1.0},
        {"views.crop_min_px": 8},
    ],
)
def test_other_data_or_views_change_it(
    small_settings: Settings, changes: dict[str, object]
) -> None:
    assert digest_of(override(small_settings, changes)) != digest_of(small_settings)


def test_a_step_twice_or_not_at_all_changes_it(small_settings: Settings) -> None:
    assert digest_of(small_settings, 3, 2) != digest_of(small_settings)
    assert digest_of(small_settings, 3)[:8] != to_text(0)[:8]


NUMBERS = np.arange(4)


def digest(
    pair: list[ViewParameters], slots: np.ndarray = NUMBERS, samples: np.ndarray = NUMBERS
) -> int:  # type: ignore[type-arg]
    rows = digest_rows(np.zeros(4, np.int64), slots, samples, pair)
    return int(np.sum(rows, dtype=np.uint64)) % MODULUS


def test_any_cpu_draws_the_same() -> None:
    """What a CPU with AVX2 alone, and one without it, have drawn of 20,000 samples."""
    pair, numbers = [draw(count=20_000, view=view) for view in (0, 1)], np.arange(20_000)
    rows = digest_rows(np.zeros(20_000, np.int64), numbers, numbers, pair)
    assert to_text(int(np.sum(rows, dtype=np.uint64)) % MODULUS) == "074e563214b0310f"


def test_every_parameter_of_either_view_counts() -> None:
    pair = [draw(count=4, view=0), draw(count=4, view=1)]
    seen = {digest(pair)}
    for view in (0, 1):
        for field in fields(ViewParameters):
            values = getattr(pair[view], field.name).copy()
            values[2] = ~values[2] if values.dtype == bool else values[2] + 1
            changed = list(pair)
            changed[view] = replace(pair[view], **{field.name: values})
            seen.add(digest(changed))
    assert len(seen) == 1 + 2 * len(fields(ViewParameters))


def test_two_samples_or_two_views_that_change_places_count() -> None:
    pair = [draw(count=4, view=0), draw(count=4, view=1)]
    swapped = np.array([1, 0, 2, 3])
    assert len({
        digest(pair), digest(pair, slots=swapped), digest(pair, samples=swapped), digest(pair[::-1])
    }) == 4  # fmt: skip


@pytest.mark.run
def test_a_whole_run_of_the_cifar10_preset_has_the_digest_of_the_first_version() -> None:
    """That of 50,000 images of 32 × 32 pixels: drawn for all 2,730 steps, without an image."""
    settings = preset("cifar10")
    plan = build_plan(
        settings,
        Manifest(
            schema_version=2, identity="cifar10", classes=("all",), num_rows=50_000,
            num_bytes=47_741_251, rows_per_row_group=256, shards=(),
        ),
    )  # fmt: skip
    stop, size, total = plan.steps_per_epoch * settings.schedule.epochs, plan.global_batch, 0
    slots, sides = np.arange(size), np.full(size, 32)
    for span in plan.spans(0, stop):
        rows = plan.window(span.first_step).rows
        for place, step in enumerate(range(span.first_step, min(span.stop_step, stop))):
            samples, steps = rows[place * size :][:size], np.full(size, step)
            columns = {"row": samples, "width": sides, "height": sides, "step": steps}
            pair = draw_all(columns, settings, plan.steps_per_epoch)
            total += int(np.sum(digest_rows(steps, slots, samples, pair), dtype=np.uint64))
    assert to_text(total) == "f976261bb95b3abc"
