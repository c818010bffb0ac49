"""What a probe sees, however its images are shared out and whatever they lack."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from bt_ray.config import Settings, override
from bt_ray.data.preparation.write import write_shards
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.sources import open_source
from bt_ray.data.stream.batches import local_batches
from bt_ray.data.stream.plan import build_plan
from bt_ray.errors import NonFiniteLossError
from bt_ray.evaluation import probe as probe_module
from bt_ray.evaluation.probe import SHARED_IMAGES, Probe, build_probe
from bt_ray.evaluation.score import VALIDATION_SCORE
from bt_ray.methods.learner import Probing
from bt_ray.model.twins import Twins, build_twins
from bt_ray.training.summary import find_leak
from bt_ray.tuning.score import Score, read_score
from tests.data.pictures import encoded, write_folder
from tests.states import build_state
from tests.workers import run_workers

pytestmark = pytest.mark.run

CPU = torch.device("cpu")
ALWAYS = {
    "probe/rankme",
    "probe/mean_deviation",
    "probe/mean_correlation",
    "probe/alignment",
    "probe/uniformity",
}


def seeded_twins(settings: Settings) -> Twins:
    return build_state(settings, CPU).module


@pytest.fixture(scope="module")
def bare_root(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digits of the test set without their labels."""
    source = open_source("digits:test")
    position = source.entries.schema.get_field_index("label")
    none = source.entries.set_column(position, "label", pa.nulls(len(source), pa.int32()))
    bare = replace(source, identity="bare", classes=(), entries=none)
    root = str(tmp_path_factory.mktemp("bare") / "shards")
    return write_shards(bare, root, rows_per_row_group=64).root


def test_probe_measures_and_leaves_the_twins_as_they_were(small_settings: Settings) -> None:
    twins = build_twins(small_settings)
    before = {name: value.clone() for name, value in twins.state_dict().items()}
    probing = build_probe(small_settings, CPU)(twins)
    assert set(probing.measures) == ALWAYS | {"knn/top1", "knn/neighbors"}
    assert probing.arrays["cross_correlation"].shape == (64, 64)
    assert probing.arrays["eigenvalues"].shape == (256,)
    assert {array.dtype for array in probing.arrays.values()} == {np.dtype(np.float32)}
    assert probing.arrays["eigenvalues"].sum() == pytest.approx(1, abs=1e-5)
    assert (np.diff(probing.arrays["eigenvalues"]) <= 0).all()
    assert all(module.training for module in twins.modules())
    assert all(parameter.grad is None for parameter in twins.parameters())
    for name, value in twins.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_weights_that_are_no_longer_finite_end_the_run(small_settings: Settings) -> None:
    """By a sentence, not by the first measure that cannot be computed."""
    twins = build_twins(small_settings)
    next(twins.parameters()).data.fill_(torch.nan)
    with pytest.raises(NonFiniteLossError, match=r"lower optimizer\.weight_rate"):
        build_probe(small_settings, CPU)(twins)


def test_of_many_dimensions_the_first_256_are_kept(small_settings: Settings) -> None:
    settings = override(small_settings, {"model.projector_widths": [64, 300]})
    twins = seeded_twins(settings)
    probe = build_probe(settings, CPU)
    whole = probe(twins).arrays["cross_correlation"]
    assert whole.shape == (256, 256)
    twins.projector[-1].weight.data = twins.projector[-1].weight.data[:20]
    np.testing.assert_allclose(probe(twins).arrays["cross_correlation"], whole[:20, :20], atol=1e-6)


@pytest.mark.parametrize("unlabelled", ["data.train", "data.test", "both", "no test"])
def test_without_labels_there_is_all_but_knn(
    small_settings: Settings, bare_root: str, unlabelled: str
) -> None:
    changes: dict[str, dict[str, str | None]] = {
        "data.train": {"data.train": bare_root},
        "data.test": {"data.test": bare_root},
        "both": {"data.train": bare_root, "data.test": bare_root},
        "no test": {"data.test": None},
    }
    settings = override(small_settings, changes[unlabelled])
    measures = build_probe(settings, CPU)(seeded_twins(settings)).measures
    held_out = {"held_out/rankme", "held_out/alignment"}
    assert set(measures) == ALWAYS | (held_out if unlabelled in ("data.test", "both") else set())
    assert all(np.isfinite(value) for value in measures.values())


@pytest.mark.parametrize("photometry", ["loader", "device"])
def test_view_pairs_are_those_of_the_first_epoch(small_settings: Settings, photometry: str) -> None:
    """Pixel for pixel what training sees of the same rows, by the same draw."""
    settings = override(
        small_settings,
        {
            "views.photometry": photometry,
            "views.blur_probability": [1.0, 0.5],
            "views.solarize_probability": [0.0, 0.5],
        },
    )
    shards = ShardSet.open(settings.data.train)
    pairs = build_probe(settings, CPU).pairs
    first = next(local_batches(settings, shards, start=0, stop=1, device=CPU))
    rows = build_plan(settings, shards.manifest).batch(0)
    seen = [slot for slot, row in enumerate(rows) if row in pairs.rows]
    assert len(seen) > 20
    index = torch.from_numpy(rows[seen])  # the pairs lie in the order of their rows, from 0
    for ours, theirs in zip((pairs.view_a, pairs.view_b), first.views, strict=True):
        assert ours.dtype == torch.uint8
        assert torch.equal(ours[index].float(), theirs[seen].float())


def test_at_most_1024_images_are_paired(small_settings: Settings, digits_shards: ShardSet) -> None:
    changes = {"data.train": digits_shards.root, "data.test": None, "probe.bank_images": 1400}
    shares = [
        build_probe(override(small_settings, changes), CPU, rank=rank, world_size=3).pairs.rows
        for rank in range(3)
    ]
    assert sorted(torch.cat(shares).tolist()) == list(range(1024))


def _probe(rank: int, world_size: int, settings: Settings) -> tuple[Probing, int]:
    probe_module._SPECTRUM_ROWS = 100  # fewer than the bank: it matters which rows they are
    probe: Probe = build_probe(settings, CPU, rank=rank, world_size=world_size)
    return probe(seeded_twins(settings)), len(probe.bank.rows)


def test_a_probe_is_the_same_at_every_number_of_workers(small_settings: Settings) -> None:
    """Five workers share the four row groups of the bank: one of them has no image at all."""
    alone, _ = run_workers(1, _probe, small_settings)[0]
    for world_size in (2, 5):
        told = run_workers(world_size, _probe, small_settings)
        assert (min(count for _, count in told) == 0) == (world_size == 5)
        for probing, _ in told:
            assert probing.measures == told[0][0].measures
            assert probing.measures == pytest.approx(alone.measures, rel=1e-4)
            for name, array in probing.arrays.items():
                np.testing.assert_array_equal(array, told[0][0].arrays[name])
                np.testing.assert_allclose(array, alone.arrays[name], atol=1e-4)


def test_held_out_images_that_are_training_images_are_counted(
    small_settings: Settings, tmp_path: Path
) -> None:
    """Also where they are other files of the same pixels, and however they are shared out."""
    images = {f"{i % 2}/{i:02d}.bmp": encoded(i, kind="BMP") for i in range(40)}
    held = {f"{i % 2}/{i:02d}.png": encoded(i, kind="PNG") for i in range(33, 53)}
    changes = {"data.train": images, "data.test": held}
    roots = {
        key: write_shards(
            open_source(write_folder(tmp_path / key, some)),
            str(tmp_path / f"{key}-shards"),
            rows_per_row_group=8,
        ).root
        for key, some in changes.items()
    }
    settings = override(small_settings, roots)
    for world_size in (1, 2):
        for probing, _ in run_workers(world_size, _probe, settings):
            assert probing.measures[SHARED_IMAGES] == 7
    assert "images that are training images" in str(find_leak({SHARED_IMAGES: 7.0}))
    assert find_leak({}) is None


@pytest.mark.parametrize("kind", ["labelled", "without labels"])
def test_validation_images_are_scored_by_their_labels_or_without(
    small_settings: Settings, bare_root: str, digits_shards: ShardSet, kind: str
) -> None:
    """As a sweep scores the images that it holds out, which are its test images."""
    root = digits_shards.root if kind == "labelled" else bare_root
    settings = override(small_settings, {"data.validation": root, "data.test": None})
    found = build_probe(settings, CPU)(seeded_twins(settings)).measures
    swept = override(small_settings, {"data.test": root})
    theirs = build_probe(swept, CPU)(seeded_twins(settings)).measures
    score: Score = "knn_top1" if kind == "labelled" else "rankme_cosine"
    assert found[VALIDATION_SCORE] == read_score(theirs, score)
    parts = {"knn_top1"} if kind == "labelled" else {"rankme", "alignment"}
    assert set(found) == ALWAYS | {f"validation/{part}" for part in (*parts, "score")}


def test_an_average_is_measured_as_the_weights_themselves_are(small_settings: Settings) -> None:
    settings = override(small_settings, {"data.validation": small_settings.data.test})
    twins, other = (seeded_twins(override(settings, {"training.seed": seed})) for seed in (1, 2))
    probe = build_probe(settings, CPU)
    plain, theirs = probe(twins).measures, probe(other).measures
    both = probe(twins, other.eval().encoder).measures
    assert {name: both[name] for name in plain} == plain
    named = {name: value for name, value in both.items() if name not in plain}
    assert named == {
        name.replace("/", "_average/"): value
        for name, value in theirs.items()
        if name != "knn/neighbors"
    }


def test_k_is_that_of_the_settings_or_fits_the_bank(small_settings: Settings) -> None:
    for asked, used in ((7, 7), (None, 12)):  # 256 images of ten classes
        settings = override(small_settings, {"probe.neighbors": asked})
        measures = build_probe(settings, CPU)(seeded_twins(settings)).measures
        assert measures["knn/neighbors"] == used
