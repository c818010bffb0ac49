"""Smaller views on their way: the same by every way, for any workers, after any restart."""

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from bt_ray.config import Settings, ViewSettings, override
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.stream.batches import Batch, local_batches, to_batch
from bt_ray.data.stream.decode import Columns, bytes_of_views, make_views
from bt_ray.data.stream.ingest import steps_of_a_row
from bt_ray.data.stream.spares import Spare
from bt_ray.evaluation import images
from bt_ray.evaluation.images import load_view_pairs
from bt_ray.methods.step import _cut
from bt_ray.presets import preset
from tests.data.views.test_fast import imagenet
from tests.data.views.test_planes import KINDS, picture, settings_of, step_of

CPU = torch.device("cpu")
CROPS = {"views.small_count": 2, "views.small_px": 5}
JIGSAW = {
    "views.small_count": 9, "views.small_px": 4, "views.small_kind": "jigsaw",
    "views.small_crop_area": [0.6, 1.0],
}  # fmt: skip
BOTH = pytest.mark.parametrize("changes", [CROPS, JIGSAW], ids=["crops", "jigsaw"])


def batch_of(step: pa.Table, settings: Settings) -> Batch:
    return to_batch(make_views(step, settings, 1), settings, 1, CPU)


def small_of(batch: Batch) -> Tensor:
    assert batch.small is not None
    return batch.small


def seen(
    settings: Settings, start: int, stop: int, rank: int = 0, world_size: int = 1
) -> list[Batch]:
    shards = ShardSet.open(settings.data.train)
    return list(
        local_batches(
            settings, shards, start=start, stop=stop, device=CPU, rank=rank, world_size=world_size
        )
    )


@BOTH
@pytest.mark.parametrize(("channels", "bits"), KINDS)
def test_a_loader_and_a_device_finish_them_to_the_same_levels(
    changes: dict[str, object], channels: int, bits: Literal[8, 16]
) -> None:
    """Of any channels and bits, with turns and all photometry."""
    step = step_of([picture(channels, bits, height=30 + i) for i in range(8)])
    settings = override(settings_of(channels, bits), changes)
    views = settings.views
    by_loader = small_of(batch_of(step, settings))
    on_device = override(settings, {"views.photometry": "device"})
    assert torch.equal(by_loader.int(), small_of(batch_of(step, on_device)).int())
    px = views.small_px
    assert by_loader.shape == (8, views.small_count, channels, px, px)
    assert by_loader.dtype == (torch.uint8 if bits == 8 else torch.uint16)
    unfinished = make_views(step, on_device, 1)["small"]
    assert (by_loader.numpy() != unfinished).any(axis=(2, 3, 4)).mean() > 0.5


@pytest.mark.parametrize("kind", ["crops", "jigsaw"])
@pytest.mark.parametrize("photometry", ["loader", "device"])
def test_every_way_makes_the_reference_s(
    kind: Literal["crops", "jigsaw"], photometry: Literal["loader", "device"]
) -> None:
    """On average within a level of 255, and within 8 at the 99.9th percentile, each view."""
    [step] = [one.slice(0, 10) for one in imagenet(every=100)]
    views = ViewSettings(image_px=16, small_count=9, small_kind=kind, small_px=64)
    views = replace(views, small_crop_area=(0.6, 1.0) if kind == "jigsaw" else (0.05, 0.14))
    reference, fast = (
        small_of(batch_of(step, replace(preset("images"), views=way))).numpy().astype(float)
        for way in (replace(views, backend="reference"), replace(views, photometry=photometry))
    )
    off = np.abs(reference - fast).reshape(90, -1)
    assert off.mean(axis=1).max() <= 1
    assert np.percentile(off, 99.9, axis=1).max() <= 8


@BOTH
def test_the_two_views_are_those_without_them_and_the_digest_is_not(
    small_settings: Settings, changes: dict[str, object]
) -> None:
    for plain, with_small in zip(
        seen(small_settings, 0, 2), seen(override(small_settings, changes), 0, 2), strict=True
    ):
        assert all(map(torch.equal, plain.views, with_small.views))
        assert plain.small is None
        assert plain.digest != with_small.digest


@BOTH
def test_other_smaller_views_have_another_digest(
    small_settings: Settings, changes: dict[str, object]
) -> None:
    settings = override(small_settings, changes)
    others = override(settings, {"views.small_crop_area": [0.2, 0.5]})
    assert seen(settings, 0, 1)[0].digest != seen(others, 0, 1)[0].digest


@BOTH
@pytest.mark.parametrize("photometry", ["loader", "device"])
def test_neither_workers_nor_a_restart_change_them(
    small_settings: Settings, changes: dict[str, object], photometry: str
) -> None:
    settings = override(small_settings, {**changes, "views.photometry": photometry})
    whole = seen(settings, 0, 3)
    shared = [seen(settings, 0, 3, rank, 3) for rank in range(3)]
    resumed = seen(settings, 2, 3)
    for step, batch in enumerate(whole):
        parts = [worker[step] for worker in shared]
        assert torch.equal(small_of(batch), torch.cat([small_of(part) for part in parts]))
        assert batch.digest == sum(part.digest for part in parts) % 2**64
    assert torch.equal(small_of(whole[2]), small_of(resumed[0]))
    assert small_of(whole[0]).float().std() > 10


def test_an_image_that_stands_in_for_another_has_smaller_views() -> None:
    """They are its own, drawn as for the image that is missing."""
    settings = override(settings_of(1, 8), CROPS)
    step = step_of([picture(1, 8, height=30 + i) for i in range(3)])
    spare = step_of([picture(1, 8, height=50)])
    stands_in = Spare(7, spare["image"][0].as_buffer(), 33, 50)
    encoded = pa.array([b"no image", *step["image"].to_pylist()[1:]])
    broken = step.set_column(step.column_names.index("image"), "image", encoded)
    made = make_views(broken, settings, 1, lambda step, slot: iter([stands_in]))
    alone = make_views(spare, settings, 1)  # row 0, as the missing one
    assert np.array_equal(made["small"][0], alone["small"][0])
    assert np.array_equal(made["small"][1:], make_views(step, settings, 1)["small"][1:])


def test_a_row_of_the_stream_holds_fewer_steps_with_them() -> None:
    settings = override(preset("imagenet_300"), {"data.global_batch": 64, "scaling.workers": 1})
    more = override(settings, {"views.small_count": 6})
    added = 6 * 3 * 96**2
    assert bytes_of_views(more) == bytes_of_views(settings) + added
    assert steps_of_a_row(more) < steps_of_a_row(settings)


def test_probes_and_classifiers_make_none(
    small_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pairs that a probe looks at are those of the same run without smaller views."""
    settings, made = override(small_settings, CROPS), list[set[str]]()

    def noted(*arguments: Any) -> Columns:
        made.append(set(columns := make_views(*arguments)))
        return columns

    monkeypatch.setattr(images, "make_views", noted)
    table = ShardSet.open(settings.data.train).read(np.array([0])).slice(0, 20)
    with_small, plain = (load_view_pairs(table, one, CPU) for one in (settings, small_settings))
    assert torch.equal(with_small.view_a, plain.view_a)
    assert torch.equal(with_small.view_b, plain.view_b)
    assert len(made) == 2
    assert "small" not in made[0]


def test_a_part_of_a_batch_has_its_own_images_smaller_views(small_settings: Settings) -> None:
    """With `training.micro_batch`, row by row."""
    [batch] = seen(override(small_settings, CROPS), 0, 1)
    sizes = (7, 5, len(batch.samples) - 12)
    parts = list(_cut(batch, sizes))
    assert tuple(len(small_of(part)) for part in parts) == sizes
    assert torch.equal(torch.cat([small_of(part) for part in parts]), small_of(batch))
