"""What is said of a run before it starts is what the run would do."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from bt_ray.config import SETTINGS_FILE, Settings, override, to_json
from bt_ray.config.training import part_rows
from bt_ray.data.preparation.prepare import describe_data, prepare_data
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.stream.plan import build_plan
from bt_ray.errors import DataError, LaunchError, SettingsError
from bt_ray.forecast.forecast import forecast
from bt_ray.forecast.memory import find_fits, measure_size, saved_storages
from bt_ray.forecast.speed import extrapolate
from bt_ray.methods.barlow_twins import BarlowTwinsLearner
from bt_ray.model.twins import build_twins
from bt_ray.precision import autocast
from bt_ray.presets import preset
from bt_ray.training.run_folder import claim_folder
from bt_ray.training.validation import prepare_validation
from tests.states import build_state

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("encoder", ["conv4", "resnet18"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_activations_are_those_of_a_real_forward(
    small_settings: Settings, precision: str, encoder: str
) -> None:
    settings = override(
        small_settings,
        {
            "training.precision": precision,
            "model.encoder": encoder,
            "model.stem": "cifar",
            "views.image_px": 16,
            "data.global_batch": 16,
        },
    )
    twins = build_state(settings, CPU).module
    views = [torch.randn(16, 3, 16, 16) for _ in range(2)]
    with saved_storages() as kept, autocast(settings.training, CPU):
        embeddings = twins(*views)
    for tensor in (*twins.parameters(), *twins.buffers(), *views, *embeddings):
        kept.pop(tensor.untyped_storage()._cdata, None)
    said = measure_size(settings).memory.activations
    assert said == pytest.approx(sum(kept.values()), rel=0.01)


def test_the_papers_model_has_the_papers_size() -> None:
    size = measure_size(preset("imagenet_300"))
    assert size.encoder_parameters == 25_557_032 - (2048 * 1000 + 1000)  # torchvision's, bare
    assert size.projector_parameters == 2048 * 8192 + 2 * 8192**2 + 2 * 2 * 8192
    assert size.memory.gradients == 4 * (size.encoder_parameters + size.projector_parameters)
    assert size.memory.objective < 2 * 4 * 8192**2  # no D×D matrix …
    asked = measure_size(override(preset("imagenet_300"), {"objective.form": "correlation"}))
    assert asked.memory.objective > 2 * 4 * 8192**2  # … unless it is asked for


def test_workers_share_the_activations(small_settings: Settings) -> None:
    one, two = (
        measure_size(override(small_settings, {"scaling.workers": workers})).memory
        for workers in (1, 2)
    )
    assert two.activations / one.activations == pytest.approx(0.5, abs=0.01)
    assert two.weights == one.weights


def test_a_long_step_lies_on_the_line_of_two_short_ones() -> None:
    assert extrapolate({2: 1.2, 4: 1.4}, 64) == pytest.approx(1.4 + 60 * 0.1)
    assert extrapolate({2: 1.0}, 4) == pytest.approx(2.0)
    assert extrapolate({2: 1.0, 4: 0.9}, 64) == pytest.approx(0.9)


@pytest.mark.parametrize("labelled", [True, False])
def test_the_plan_is_that_of_the_shards(tmp_path: Path, labelled: bool) -> None:
    for i in range(23):
        file = tmp_path / "images" / (f"c{i % 2}" if labelled else "") / f"ä{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 8 + i), (i, i, i)).save(file)
    settings = override(
        preset("images"),
        {"data.train": str(tmp_path / "images"), "storage": str(tmp_path / "runs"),
         "data.global_batch": 4, "data.rows_per_row_group": 5},
    )  # fmt: skip
    described, _ = describe_data(settings)
    assert described.source is not None
    assert not (tmp_path / "runs").exists()
    written = ShardSet.open(prepare_data(settings).data.train)
    assert written.root == described.root
    assert written.manifest.num_bytes == described.manifest.num_bytes
    assert build_plan(settings, written.manifest) == build_plan(settings, described.manifest)


def test_every_fault_is_found_and_nothing_written(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "images" / "good.png")
    (tmp_path / "images" / "story.jpg").write_text("once")
    settings = override(
        preset("images"),
        {"data.train": str(tmp_path / "images"), "storage": str(tmp_path / "runs"),
         "scaling.accelerator": "gpu", "scaling.workers": 64},
    )  # fmt: skip
    before = sorted(tmp_path.rglob("*"))
    ahead = forecast(settings)
    assert sorted(tmp_path.rglob("*")) == before
    kinds = [type(error) for error in ahead.problems]
    sentences = " ".join(map(str, ahead.problems))
    assert "needs at least as many images; there are 2" in sentences
    assert "'story.jpg' cannot be decoded" in sentences
    assert "need a GPU each" in sentences
    assert kinds == [DataError, DataError, LaunchError]
    assert ahead.images_per_s is None
    assert ahead.total_steps is None


def test_a_taken_name_and_a_storage_that_is_a_file_are_refused(small_settings: Settings) -> None:
    folder = Path(small_settings.storage) / "small"
    folder.mkdir()
    (folder / SETTINGS_FILE).write_text(to_json(small_settings))
    assert forecast(small_settings).problems == ()
    longer = override(small_settings, {"schedule.epochs": 4})
    (taken,) = forecast(longer).problems
    assert isinstance(taken, SettingsError)
    assert "with other settings" in str(taken)
    nowhere = override(small_settings, {"storage": str(folder / SETTINGS_FILE)})
    (file,) = forecast(nowhere).problems
    assert f"{folder / SETTINGS_FILE} is no folder" in str(file)
    assert [entry.name for entry in folder.iterdir()] == [SETTINGS_FILE]


MODES = [
    {"training.micro_batch": 4},
    {"training.activation_checkpointing": True},
    {"training.micro_batch": 4, "training.activation_checkpointing": True},
]


@pytest.mark.parametrize("changes", [{}, *MODES])
def test_activations_are_those_of_a_real_step(
    small_settings: Settings, changes: dict[str, object]
) -> None:
    """In parts, and with blocks that are computed again: of both halves, what autograd keeps."""
    base = {
        "model.encoder": "resnet18",
        "model.stem": "cifar",
        "views.image_px": 16,
        "data.global_batch": 16,
        "training.channels_last": False,
    }
    settings = override(small_settings, {**base, **changes})
    learner = BarlowTwinsLearner(settings, CPU, steps_per_epoch=1)
    twins = learner.module
    weights = [t.untyped_storage()._cdata for t in (*twins.parameters(), *twins.buffers())]

    def count(kept: dict[int, int], *known: torch.Tensor) -> int:
        others = {*weights, *(tensor.untyped_storage()._cdata for tensor in known)}
        return sum(size for key, size in kept.items() if key not in others)

    rows = 4 if "training.micro_batch" in changes else 16
    views = [torch.randn(rows, 3, 16, 16) for _ in range(2)]
    with saved_storages() as of_encoder:
        ends = twins.represent(*views)
    whole = [end.detach().repeat(16 // rows, 1).requires_grad_() for end in ends]
    with saved_storages() as of_projector:
        z_a, z_b = twins.project(*(ends if rows == 16 else whole))
    blocks = [0]
    if "training.activation_checkpointing" in changes:
        x = torch.randn(rows, 64, 16, 16, requires_grad=True)  # the first stage's are the largest
        with saved_storages() as of_block:
            y = twins.encoder.layer1[0](x)
        blocks.append(count(of_block, x, y))
        plain = override(settings, {"training.activation_checkpointing": False})
        assert count(of_encoder, *views) < 0.5 * measure_size(plain).memory.activations
    if rows == 16:
        expected = count(of_encoder | of_projector, *views, z_a, z_b) + max(blocks)
    else:
        rows_bytes = sum(end.nbytes for end in whole)
        expected = 2 * rows_bytes + max(
            count(of_encoder, *views) + max(blocks), count(of_projector, *whole, z_a, z_b)
        )
    assert measure_size(settings).memory.activations == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("parts", [1, 4])
def test_smaller_views_are_counted_as_they_are_kept(small_settings: Settings, parts: int) -> None:
    """What encoder and projector keep of all of them at once, their levels and their embeddings."""
    changes = {"model.encoder": "conv4", "data.global_batch": 16, "training.channels_last": False}
    plain = override(small_settings, {**changes, "training.micro_batch": 16 // parts})
    settings = override(plain, {"views.small_count": 3, "views.small_px": 12})
    twins = BarlowTwinsLearner(settings, CPU, steps_per_epoch=1).module
    small = torch.randn(3 * 16 // parts, 3, 12, 12)
    with saved_storages() as of_encoder:
        end = twins.encoder(small)
    whole = end if parts == 1 else end.detach().repeat(parts, 1).requires_grad_()
    with saved_storages() as of_projector:
        embedded = twins.projector(whole)
    known = (*twins.parameters(), *twins.buffers(), small, embedded)
    kept = of_encoder | of_projector if parts == 1 else of_encoder
    for tensor in known:
        kept.pop(tensor.untyped_storage()._cdata, None)
    before, after = measure_size(plain).memory, measure_size(settings).memory
    added = sum(kept.values()) + (0 if parts == 1 else 2 * whole.nbytes)
    assert after.activations - before.activations == pytest.approx(added, rel=0.01)
    values = 3 * 3 * 12**2
    assert after.views - before.views == values * (2 * 16 + 4 * 16 // parts)
    assert after.objective - before.objective == 2 * 3 * 16 * 4 * embedded.shape[1]


def test_a_batch_that_does_not_fit_is_told_its_ways_out(
    small_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each fits by its own count, and the next larger part would not."""
    base = {"model.encoder": "resnet18", "model.stem": "cifar", "views.image_px": 32}
    settings = override(small_settings, base)
    whole = measure_size(settings).memory.total
    for share in (0.8, 0.45):
        fits = find_fits(settings, share * whole)
        assert fits
        for fit in fits:
            changes = {
                "training.micro_batch": fit.micro_batch,
                "training.activation_checkpointing": fit.activation_checkpointing,
            }
            assert measure_size(override(settings, changes)).memory.total == fit.total_bytes
            assert fit.total_bytes <= share * whole
            size = fit.micro_batch or 128
            larger = [n for n in range(size + 1, 129) if max(part_rows(128, n)) > size]
            if larger:
                parts = override(settings, changes | {"training.micro_batch": larger[0]})
                assert measure_size(parts).memory.total > share * whole
    assert fits[-1].options.startswith("--training.micro-batch ")
    assert find_fits(settings, 0.01 * whole) == []
    [only] = find_fits(override(settings, {"model.encoder": "conv4"}), 0.45 * whole)
    assert only.micro_batch is not None
    assert not only.activation_checkpointing

    copies = measure_size(settings).checkpoint_bytes  # of the state, while it is written
    free = SimpleNamespace(available=int(0.8 * whole) + copies)
    monkeypatch.setattr("bt_ray.forecast.forecast.psutil.virtual_memory", lambda: free)
    changes = base | {"scaling.workers": 0}
    warnings = forecast(override(small_settings, changes)).warnings
    [sentence] = [warning for warning in warnings if "GB of memory" in warning]
    for fit in find_fits(settings, 0.8 * whole):
        assert f"{fit.options} needs {(fit.total_bytes + copies) / 2**30:,.1f} GB. " in sentence
    assert "Or lower data.global_batch" in sentence


def test_views_that_pass_together_are_computed_again_together(small_settings: Settings) -> None:
    """With several workers, whose batch norms take both views at once, unless one has no graph."""
    changes = {
        "model.encoder": "resnet18", "model.stem": "cifar", "views.image_px": 16,
        "training.activation_checkpointing": True, "training.channels_last": False,
    }  # fmt: skip
    settings = override(small_settings, changes)
    block = BarlowTwinsLearner(settings, CPU, steps_per_epoch=1).module.encoder.layer1[0]
    x = torch.randn(16, 64, 16, 16, requires_grad=True)
    with saved_storages() as kept:
        y = block(x)
    for tensor in (*block.parameters(), *block.buffers(), x, y):
        kept.pop(tensor.untyped_storage()._cdata, None)
    for stops, more in ((False, sum(kept.values())), (True, 0)):
        one, two = (
            measure_size(
                override(
                    settings,
                    {
                        "scaling.workers": workers,
                        "data.global_batch": 16 * workers,
                        "model.stop_gradient": stops,
                    },
                )
            ).memory.activations
            for workers in (1, 2)
        )
        assert two - one == pytest.approx(more, rel=0.01)


def test_an_average_is_a_copy_of_the_encoder_in_memory_and_checkpoints(
    small_settings: Settings,
) -> None:
    plain = measure_size(small_settings)
    averaged = measure_size(override(small_settings, {"training.average_decay": 0.9}))
    encoder = build_twins(small_settings).encoder.state_dict().values()
    copy = sum(tensor.nbytes for tensor in encoder)
    assert averaged.memory.total - plain.memory.total == copy
    assert averaged.checkpoint_bytes - plain.checkpoint_bytes == copy


def test_a_dry_run_of_a_run_that_holds_images_out_finds_it(small_settings: Settings) -> None:
    """Its steps, and its folder, which is that of the same run."""
    changes = {"training.keep_best": True, "data.global_batch": 90, "scaling.workers": 0}
    settings = override(small_settings, changes)
    folder = Path(settings.storage) / settings.name
    prepared = prepare_validation(settings)
    folder.mkdir()
    claim_folder(folder, prepared)
    ahead = forecast(settings)
    assert ahead.problems == ()
    assert ahead.total_steps == 3 * 3  # of 320 images; of all 360 they would be four an epoch
    assert ahead.plan is not None
    assert ahead.plan.num_rows == ShardSet.open(prepared.data.train).manifest.num_rows
