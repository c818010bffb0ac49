"""The learner: batches in, the loss of the global batch out."""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bt_ray.config import SETTINGS_FILE, override, to_json
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.stream.batches import local_batches
from bt_ray.data.stream.plan import build_plan
from bt_ray.detection.annotations import Annotations, Objects
from bt_ray.detection.assignment import Detection
from bt_ray.detection.learner import TERMS, DetectionLearner
from bt_ray.errors import SettingsError
from bt_ray.methods.learner import Probing
from bt_ray.model.weights import ENCODER, save_weights
from bt_ray.training.background import done
from bt_ray.training.local import LocalContext
from bt_ray.training.loop import train
from bt_ray.training.recorder import FolderRecorder
from bt_ray.training.stop import StopRequest
from tests.detection.small import COLOURS, PROTOCOL, narrow, rectangles, task_of
from tests.workers import run_workers

CPU = torch.device("cpu")
MASKED = replace(PROTOCOL, masks=True)


@pytest.fixture
def task(tmp_path: Path) -> Detection:
    return task_of(rectangles(tmp_path / "images"), tmp_path, MASKED)


def learner_of(task: Detection) -> DetectionLearner:
    shards = ShardSet.open(task.settings.data.train)
    steps_per_epoch = build_plan(task.settings, shards.manifest).steps_per_epoch
    return task.build_learner(shards, CPU, steps_per_epoch)


def batches_of(task: Detection, stop: int = 6, rank: int = 0, world_size: int = 1) -> Any:
    return local_batches(
        task.settings, ShardSet.open(task.settings.data.train), start=0, stop=stop, device=CPU,
        rank=rank, world_size=world_size, make=task.make_views,
    )  # fmt: skip


def test_targets_lie_where_the_objects_are(task: Detection) -> None:
    """What the detector is given: the canvas cut to the scenes, boxes on their rectangles."""
    learner, given = learner_of(task), list[Any]()
    learner.module.register_forward_pre_hook(lambda module, arguments: given.append(arguments))
    sides, seen = set(), 0
    for batch in batches_of(task):
        learner.embed(batch)
        images, sizes, targets = given.pop()
        sides.add(tuple(images.shape[-2:]))
        assert images.shape[-2:] == tuple(
            -(-max(side) // 32) * 32 for side in zip(*sizes, strict=True)
        )
        for view, (height, width), target in zip(batch.views[0], sizes, targets, strict=True):
            assert target["masks"].shape[1:] == (height, width)
            assert not view[:, height:].any()
            assert view[:, :height, :width].any()
            # The last one is painted over the others.
            if len(target["labels"]):
                left, top, right, bottom = (int(edge) for edge in target["boxes"][-1].round())
                inside = view[:, top + 3 : bottom - 3, left + 3 : right - 3].float().mean((1, 2))
                colour = torch.tensor(COLOURS[target["labels"][-1] - 1])
                torch.testing.assert_close(inside, colour.float(), rtol=0, atol=25)
                seen += 1
    assert seen > 8
    assert sides == {(64, 64)}


def test_the_loss_is_the_weighted_sum_of_its_terms(task: Detection) -> None:
    weighted = replace(task, protocol=replace(MASKED, rpn_weight=0.2))
    learner, batch = learner_of(weighted), next(batches_of(weighted))
    torch.manual_seed(0)
    outcome = learner.objective(learner.embed(batch))
    assert tuple(outcome.terms) == TERMS
    values = {name: term.item() for name, term in outcome.terms.items()}
    proposals = values["rpn_objectness"] + values["rpn_box"]
    regions = values["class"] + values["box"] + values["mask"]
    assert outcome.loss.item() == pytest.approx(0.2 * proposals + regions)
    assert not any(term.requires_grad for term in outcome.terms.values())
    assert len(outcome.outputs) == len(TERMS)


def test_rates_are_the_protocols(task: Detection) -> None:
    learner = learner_of(task)
    (group,) = learner.optimizer.param_groups
    assert (group["peak_lr"], group["momentum"], group["weight_decay"]) == (0.02, 0.9, 1e-4)
    assert len(group["params"]) == len(list(learner.module.parameters()))
    assert [learner.rate_factor(step) for step in range(6)] == pytest.approx(
        [1 / 3, 2 / 3, 1, 1, 1, 0.1]
    )


def test_it_starts_from_the_encoder_or_from_the_seed(task: Detection) -> None:
    """The heads are the seed's in any case; with the encoder's file the backbone is its own."""
    torch.manual_seed(77)
    encoder = narrow(3)
    first, again = learner_of(task), learner_of(task)
    other = learner_of(
        replace(
            task,
            settings=override(
                task.settings, {"training.seed": 5, "storage": task.settings.storage}
            ),
        )
    )
    for name, value in first.module.state_dict().items():
        assert torch.equal(value, again.module.state_dict()[name]), name
    assert not torch.equal(
        first.module.get_parameter("backbone.conv1.weight"),
        other.module.get_parameter("backbone.conv1.weight"),
    )
    save_weights(encoder, task.start / ENCODER)
    (task.start / SETTINGS_FILE).write_text(to_json(task.settings))
    pretrained = learner_of(task).module
    for ours, theirs in (("backbone.", ""), ("roi_heads.box_head.", "")):
        for name, value in pretrained.named_parameters():
            known = name.removeprefix(ours)
            if name.startswith(ours) and not known.startswith("norm."):
                assert torch.equal(value, encoder.get_parameter(theirs + known)), name
    assert any(name.startswith("roi_heads.box_head.layer4") for name in pretrained.state_dict())


def test_what_cannot_be_trained_is_refused(task: Detection) -> None:
    parts = replace(task, settings=override(task.settings, {"training.micro_batch": 2}))
    with pytest.raises(SettingsError, match=r"training.micro_batch=2: a detector .*leave it out"):
        learner_of(parts)
    boxes = [
        replace(objects, masks=None) for objects in Annotations.open(task.start / "train.arrow")
    ]
    Annotations.of(boxes, ("red", "green")).write(task.start / "train.arrow")
    with pytest.raises(SettingsError, match="--masks trains on objects' masks"):
        learner_of(task)
    views = override(task.settings, {"model.encoder": "conv4"})
    with pytest.raises(SettingsError, match="Take an encoder such as resnet50"):
        learner_of(Detection(settings=views, protocol=PROTOCOL))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_batch_without_objects_and_with_crowds_alone_trains(
    task: Detection, precision: str
) -> None:
    empty = [
        Objects(
            height=one.height, width=one.width, boxes=np.array([[1, 1, 30, 30]], np.float32),
            labels=np.zeros(1, np.int64), is_crowd=np.ones(1, bool),
            is_difficult=np.zeros(1, bool), masks=(b"",),
        )
        for one in Annotations.open(task.start / "train.arrow")
    ]  # fmt: skip
    Annotations.of(empty, ("red", "green")).write(task.start / "train.arrow")
    plain = override(task.settings, {"training.precision": precision})
    learner = learner_of(replace(task, settings=plain))
    outcome = learner.objective(learner.embed(next(batches_of(task))))
    assert outcome.loss.dtype == torch.float32
    outcome.loss.backward()
    assert outcome.terms["mask"] == outcome.terms["box"] == 0
    assert all(weight.grad is not None for weight in learner.module.parameters())


def test_blocks_computed_again_change_nothing(task: Detection) -> None:
    batch = next(batches_of(task))

    def gradients(recomputed: bool) -> list[Tensor]:
        settings = override(task.settings, {"training.activation_checkpointing": recomputed})
        learner = learner_of(replace(task, settings=settings))
        torch.manual_seed(0)
        learner.objective(learner.embed(batch)).loss.backward()
        named = sorted(learner.module.named_parameters())
        statistics = [value for name, value in sorted(learner.module.named_buffers())]
        return [*(weight.grad for _, weight in named if weight.grad is not None), *statistics]

    for plain, again in zip(gradients(False), gradients(True), strict=True):
        torch.testing.assert_close(again, plain)


class _Silent(LocalContext):
    def report(self, step: int, measures: dict[str, float]) -> None:
        pass

    def commit(self, step: int, write: Callable[[Path], None] | None) -> Future[None]:
        return done()


def _train(rank: int, world_size: int, task: Detection) -> dict[str, Tensor]:
    """Last weights of one worker's part of a training of a few steps."""
    learner = learner_of(task)
    detector = learner.module.double()
    detector.register_forward_pre_hook(lambda module, given: (given[0].double(), *given[1:]))
    for sampler in (detector.rpn.fg_bg_sampler, detector.roi_heads.fg_bg_sampler):
        sampler.batch_size_per_image, sampler.positive_fraction = 10**6, 0.5
    recorder = FolderRecorder(task.run_folder, StopRequest())
    batches = batches_of(task, task.protocol.steps, rank, world_size)
    train(
        learner,
        task.settings,
        steps_per_epoch=4,
        batches=batches,
        context=_Silent(task.run_folder, task.settings.data.train, CPU, recorder, rank=rank),
        probe=lambda module: Probing(measures={}),
    )
    return dict(learner.module.state_dict())


@pytest.mark.run
def test_one_and_two_workers_train_the_same_detector(task: Detection) -> None:
    """Through the loop, in float64: which regions overlap too much is decided by the last bit."""
    short = replace(
        task,
        protocol=replace(MASKED, steps=2),
        settings=override(task.settings, {"schedule.steps": 2}),
    )
    alone = _train(0, 1, short)
    for found in run_workers(2, _train, short):
        for name, value in alone.items():
            torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-6, msg=name)
