"""Classifiers trained on an encoder, in this process and by several gloo workers."""

import shutil
import signal
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from bt_ray.checkpoints.checkpoint import last_checkpoint
from bt_ray.config import DataSettings, Settings, override
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.stream.batches import local_batches, to_batch
from bt_ray.data.stream.decode import make_views, read_steps
from bt_ray.data.stream.plan import build_plan
from bt_ray.data.stream.spares import find_spares
from bt_ray.errors import CheckpointError, RunStoppedError, SettingsError
from bt_ray.evaluation.features import compute_features, fingerprint
from bt_ray.evaluation.labelled import read_labels
from bt_ray.evaluation.protocols import INATURALIST18, LINEAR, PLACES205, SEMI, Protocol
from bt_ray.evaluation.scorer import Scorer
from bt_ray.model.classifier import Classifier, build_classifier
from bt_ray.model.encoder import build_encoder
from bt_ray.model.inputs import to_input
from bt_ray.model.pretrained import Pretrained, load_folder
from bt_ray.tracking.tracker import Measures, MemoryTracker, read_history
from bt_ray.training import classify as classifying
from bt_ray.training.assignment import Classification
from bt_ray.training.background import done
from bt_ray.training.classify import build_task, classify
from bt_ray.training.launch import pretrain
from bt_ray.training.local import LocalContext
from bt_ray.training.loop import train
from bt_ray.training.recorder import FolderRecorder
from bt_ray.training.stop import StopRequest
from tests.workers import run_workers

CPU = torch.device("cpu")
FROZEN = Protocol(
    epochs=4, batch=64, head_rate=0.3, weight_decay=1e-6, standardize=True,
    crop_area=None, flip_probability=None,
)  # fmt: skip
TUNED = replace(FROZEN, encoder_rate=0.01)


@pytest.fixture
def settings(small_settings: Settings) -> Settings:
    return override(small_settings, {"scaling.workers": 0})


@pytest.fixture
def pretrained(settings: Settings) -> Pretrained:
    """With batch norm's statistics as training leaves them: random features of a good scale."""
    torch.manual_seed(0)
    encoder = build_encoder(settings).train()
    for _ in range(20):
        encoder(torch.randn(64, 3, 8, 8))
    return Pretrained(encoder.eval(), settings)


def task_of(pretrained: Pretrained, protocol: Protocol) -> Classification:
    settings = pretrained.settings
    data = DataSettings(train=settings.data.train, test=settings.data.test)
    return build_task(
        pretrained,
        protocol,
        data,
        kind="trial",
        storage=settings.storage,
        scaling=settings.scaling,
        seed=settings.training.seed,
    )


def test_published_protocols() -> None:
    """As the reference code and the literature have them."""
    assert (LINEAR.epochs, LINEAR.batch, LINEAR.head_rate) == (100, 256, 0.3)
    assert (LINEAR.weight_decay, LINEAR.momentum, LINEAR.frozen) == (1e-6, 0.9, True)
    assert (SEMI.epochs, SEMI.batch, SEMI.head_rate, SEMI.encoder_rate) == (20, 256, 0.5, 0.005)
    assert (SEMI.weight_decay, SEMI.frozen) == (0.0, False)
    assert [PLACES205.rate_factor(epoch) for epoch in (0, 4, 5, 9, 10, 13)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01, 0.01]
    )
    assert [INATURALIST18.rate_factor(epoch) for epoch in (23, 24, 48, 83)] == pytest.approx(
        [1, 0.1, 0.01, 0.001]
    )
    with pytest.raises(SettingsError, match="--encoder-rate 0 must be above 0"):
        replace(SEMI, encoder_rate=0)


def test_views_are_cropped_and_flipped_only(pretrained: Pretrained) -> None:
    views = task_of(pretrained, LINEAR).settings.views
    assert (views.count, views.crop_area, views.flip_probability) == (1, (0.08, 1.0), 0.5)
    assert views.jitter_probability == views.grayscale_probability == 0
    assert views.blur_probability == views.solarize_probability == (0.0, 0.0)
    own = task_of(pretrained, FROZEN).settings.views
    assert own.crop_area == pretrained.settings.views.crop_area
    assert own.flip_probability == 0


@pytest.mark.run
def test_a_frozen_encoder_is_untouched_and_its_classifier_learns(pretrained: Pretrained) -> None:
    before = fingerprint(pretrained.encoder)
    task, tracker = task_of(pretrained, FROZEN), MemoryTracker()
    found = classify(task, pretrained, trackers=[tracker])
    assert found.encoder_before == found.encoder_after == before
    assert fingerprint(load_folder(found.checkpoint).encoder) == before
    assert found.scores["top1"] > 0.5
    assert found.scores["top5"] > found.scores["top1"]
    assert found.steps == 4 * 5
    history = read_history(found.metrics)
    assert history["train/head_rate"][1] == pytest.approx(0.3)
    assert history["train/head_rate"][20] == pytest.approx(0.3 * 0.5 * (1 + np.cos(np.pi * 0.75)))
    assert tracker.history["test/top1"][20] == found.scores["top1"]
    assert classify(task, pretrained) == found, "it was finished: nothing is trained again"


@pytest.mark.run
def test_an_encoder_that_changes_is_refused(
    pretrained: Pretrained, monkeypatch: pytest.MonkeyPatch
) -> None:
    def touched(checkpoint: Path) -> Pretrained:
        opened = load_folder(checkpoint)
        next(opened.encoder.parameters()).data.add_(1e-6)
        return opened

    monkeypatch.setattr(classifying, "load_folder", touched)
    with pytest.raises(CheckpointError, match="must be frozen"):
        classify(task_of(pretrained, replace(FROZEN, epochs=1)), pretrained)


@pytest.mark.run
def test_fine_tuning_moves_the_encoder_at_its_own_rate(pretrained: Pretrained) -> None:
    task = task_of(pretrained, TUNED)
    found = classify(task, pretrained)
    assert found.encoder_before != found.encoder_after
    assert found.scores["top1"] > 0.5
    # As an encoder it is opened like any other.
    assert load_folder(found.checkpoint).num_features == pretrained.num_features


@pytest.mark.run
@pytest.mark.parametrize("protocol", [FROZEN, TUNED])
def test_it_goes_on_where_it_stopped_bit_for_bit(
    pretrained: Pretrained, protocol: Protocol
) -> None:
    task = task_of(pretrained, protocol)
    whole = classify(task, pretrained)
    shutil.copytree(task.run_folder, task.run_folder.with_name("kept"))
    newest = last_checkpoint(task.run_folder)[0]
    assert newest is not None
    shutil.rmtree(newest)
    _, start = last_checkpoint(task.run_folder)
    assert 0 < start < whole.steps
    again = classify(task, pretrained)
    kept = task.run_folder.with_name("kept") / newest.relative_to(task.run_folder)
    for name in ("encoder.safetensors", "head.safetensors", "optimizer.safetensors"):
        assert (again.checkpoint / name).read_bytes() == (kept / name).read_bytes(), name
    assert again.scores == whole.scores


@pytest.mark.run
def test_a_signal_leaves_a_checkpoint_and_the_same_command_goes_on(pretrained: Pretrained) -> None:
    class Interrupting:
        is_done = False

        def log(self, step: int, measures: Measures, time_ms: int | None = None) -> None:
            if not self.is_done:
                self.is_done = True
                signal.raise_signal(signal.SIGTERM)

    long = replace(FROZEN, epochs=40)
    task = task_of(pretrained, long)
    with pytest.raises(RunStoppedError, match=r"SIGTERM stopped .* The same command continues it"):
        classify(task, pretrained, trackers=[Interrupting()])
    _, stopped = last_checkpoint(task.run_folder)
    assert 0 < stopped < 200
    assert classify(task, pretrained).steps == 200


def test_what_shapes_the_result_names_the_task(pretrained: Pretrained) -> None:
    """The same order finds the same folder, another one another."""
    task = task_of(pretrained, FROZEN)
    assert task == task_of(pretrained, FROZEN)
    elsewhere = Pretrained(
        pretrained.encoder, override(pretrained.settings, {"scaling.workers": 2})
    )
    assert task_of(elsewhere, FROZEN).run_folder == task.run_folder
    torch.manual_seed(1)
    other = Pretrained(build_encoder(pretrained.settings), pretrained.settings)
    folders = [
        task_of(other, FROZEN).run_folder,
        task_of(pretrained, replace(FROZEN, head_rate=0.1)).run_folder,
        task_of(pretrained, TUNED).run_folder,
        task.run_folder,
    ]
    assert len(set(folders)) == 4


def test_a_pretraining_has_two_views(settings: Settings) -> None:
    with pytest.raises(SettingsError, match=r"views\.count=1 serves to train a classifier"):
        pretrain(override(settings, {"views.count": 1}))


def test_a_view_of_one_is_the_first_of_two(settings: Settings) -> None:
    shards = ShardSet.open(settings.data.train)
    alone = override(settings, {"views.count": 1})
    one, two = (next(local_batches(s, shards, start=0, stop=1, device=CPU))
                for s in (alone, settings))  # fmt: skip
    assert len(one.views) == 1
    assert torch.equal(one.views[0], two.views[0])
    assert np.array_equal(one.samples, build_plan(settings, shards.manifest).batch(0))


def test_a_label_is_that_of_the_image_that_was_used(settings: Settings) -> None:
    """Of an image that cannot be decoded, another stands in, with its own label."""
    shards = ShardSet.open(settings.data.train)
    plan = build_plan(settings, shards.manifest)
    table = read_steps(shards, plan, 0, 1)
    broken = [b"no image", *table["image"].to_pylist()[1:]]
    table = table.set_column(table.column_names.index("image"), "image", pa.array(broken))
    columns = make_views(table, settings, 2, partial(find_spares, shards, plan))
    batch = to_batch(columns, settings, 2, CPU)
    rows = table["row"].to_numpy()
    assert batch.replaced == (rows[0],)
    assert batch.samples[0] != rows[0]
    assert np.array_equal(batch.samples[1:], rows[1:])


def test_scores_are_those_of_all_test_images(pretrained: Pretrained) -> None:
    task = task_of(pretrained, FROZEN)
    classifier = build_classifier(pretrained, 10, frozen=True).train()
    found = Scorer(task.settings, CPU)(classifier).measures
    assert classifier.training
    shards = ShardSet.open(str(task.settings.data.test))
    features = compute_features(pretrained, shards, CPU)
    guesses = classifier.head(features.x).topk(5).indices
    hits = (guesses == features.labels[:, None]).float().sum(0)
    assert found["test/top1"] == pytest.approx(float(hits[0]) / len(features))
    assert found["test/top5"] == pytest.approx(float(hits.sum()) / len(features))


def _train(
    rank: int, world_size: int, task: Classification
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Last weights and scores of one worker's part of a training."""
    settings, scores = task.settings, {}
    shards = ShardSet.open(settings.data.train)
    steps_per_epoch = build_plan(settings, shards.manifest).steps_per_epoch

    class Silent(LocalContext):
        def report(self, step: int, measures: dict[str, float]) -> None:
            scores.update({k: v for k, v in measures.items() if k.startswith("test/")})

        def commit(self, step: int, write: Callable[[Path], None] | None) -> Future[None]:
            return done()

    learner = task.build_learner(shards, CPU, steps_per_epoch)
    recorder = FolderRecorder(task.run_folder, StopRequest())
    train(
        learner,
        settings,
        steps_per_epoch=steps_per_epoch,
        batches=local_batches(
            settings, shards, start=0, stop=steps_per_epoch * settings.schedule.epochs,
            device=CPU, rank=rank, world_size=world_size,
        ),
        context=Silent(task.run_folder, shards.root, CPU, recorder, rank=rank),
        probe=task.build_probe(CPU, rank, world_size),
    )  # fmt: skip
    return dict(learner.module.state_dict()), scores


@pytest.mark.run
@pytest.mark.parametrize("protocol", [FROZEN, TUNED])
def test_one_and_two_workers_train_the_same_classifier(
    pretrained: Pretrained, protocol: Protocol
) -> None:
    """Batch norm, loss and gradients are those of the global batch, whoever holds its rows."""
    task = task_of(pretrained, replace(protocol, epochs=2))
    classifying._keep_start(task, pretrained)
    weights, scores = run_workers(1, _train, task)[0]
    for found, others in run_workers(2, _train, task):
        assert others == pytest.approx(scores, abs=0.01)
        for name, value in weights.items():
            torch.testing.assert_close(found[name], value, rtol=2e-3, atol=2e-3, msg=name)


def test_a_steps_gradient_is_that_of_the_mean_cross_entropy(pretrained: Pretrained) -> None:
    """One step of plain SGD, against the same written out."""
    protocol = replace(FROZEN, epochs=1, momentum=0.0, weight_decay=0.0, batch=359)
    task = task_of(pretrained, protocol)
    classifying._keep_start(task, pretrained)
    weights, _ = _train(0, 1, task)
    settings = task.settings
    shards = ShardSet.open(settings.data.train)
    torch.manual_seed(settings.training.seed)
    expected: Classifier = build_classifier(
        load_folder(task.start), 10, frozen=True, standardize=True
    )
    batch = next(local_batches(settings, shards, start=0, stop=1, device=CPU))
    logits = expected(to_input(batch.views[0], settings))
    cross_entropy(logits, read_labels(shards)[torch.tensor(batch.samples)]).backward()
    linear = expected.head[1]  # type: ignore[index]
    torch.testing.assert_close(weights["head.1.weight"], linear.weight - 0.3 * linear.weight.grad)


@pytest.mark.parametrize("world_size", [1, pytest.param(2, marks=pytest.mark.run)])
def test_a_classifier_on_a_frozen_encoder_trains_the_same_in_parts(
    pretrained: Pretrained, world_size: int
) -> None:
    """Rows and labels stay together; the head's batch norm sees the whole batch."""
    task = task_of(pretrained, replace(FROZEN, epochs=2))
    classifying._keep_start(task, pretrained)
    weights, _ = _train(0, 1, task)
    parts = replace(task, settings=override(task.settings, {"training.micro_batch": 10}))
    for found, _ in [_train(0, 1, parts)] if world_size == 1 else run_workers(2, _train, parts):
        for name, value in weights.items():
            torch.testing.assert_close(found[name], value, rtol=2e-3, atol=1e-5, msg=name)


def test_fine_tuning_in_parts_moves_encoder_and_head(pretrained: Pretrained) -> None:
    """With a labelled batch in parts; its encoder's batch norms see a part at a time."""
    task = task_of(pretrained, replace(TUNED, epochs=2))
    classifying._keep_start(task, pretrained)
    weights, scores = _train(0, 1, task)
    parts = replace(task, settings=override(task.settings, {"training.micro_batch": 32}))
    found, others = _train(0, 1, parts)
    for name in ("encoder.0.weight", "head.1.weight"):
        assert not torch.equal(found[name], weights[name])
        cosine = torch.nn.functional.cosine_similarity(
            found[name].flatten(), weights[name].flatten(), dim=0
        )
        assert cosine > 0.95, name
    assert others["test/top1"] == pytest.approx(scores["test/top1"], abs=0.1)
