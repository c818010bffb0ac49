"""What holds of every method: one result for any number of workers, exact resume, no collapse
unseen, gradients where they belong."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from bt_ray.checkpoints.checkpoint import verify_checkpoint
from bt_ray.config import Method, Settings, override
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.stream.batches import local_batches
from bt_ray.evaluation.probe import build_probe
from bt_ray.methods.build import LEARNERS, build_learner
from bt_ray.training.loop import train
from tests.methods.harness import CPU, build, settings_of, take_steps
from tests.training.test_loop import MemoryContext
from tests.workers import run_workers

METHODS: tuple[Method, ...] = tuple(LEARNERS)
STEPS = 5
FOLLOWERS = ("target", "momentum")
Found = tuple[list[Tensor], dict[str, Tensor], dict[str, Tensor]]


def _all(rank: int, world_size: int, settings: dict[Method, Settings]) -> dict[Method, Found]:
    return {name: take_steps(rank, world_size, one, STEPS) for name, one in settings.items()}


def _differences(found: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, float]:
    assert found.keys() == expected.keys()
    return {
        name: float((found[name].double() - value.double()).norm())
        / max(1e-6, float(value.double().norm()))
        for name, value in expected.items()
    }


@pytest.mark.run
@pytest.mark.parametrize("world_size", [2, 4])
def test_any_number_of_workers_gives_the_same(small_settings: Settings, world_size: int) -> None:
    """Losses, gradients and all state, from other images on each worker, within rounding."""
    settings = {name: settings_of(name, small_settings) for name in METHODS}
    alone = _all(0, 1, settings)
    faults = {}
    for of_worker in run_workers(world_size, _all, settings):
        for name, (losses, gradients, state) in of_worker.items():
            expected, their_gradients, their_state = alone[name]
            differ = {
                **_differences(
                    {str(i): loss for i, loss in enumerate(losses)},
                    {str(i): loss for i, loss in enumerate(expected)},
                ),
                **_differences(gradients, their_gradients),
                **{f"state {k}": v for k, v in _differences(state, their_state).items()},
            }
            worst = max(differ, key=lambda key: differ[key])
            if not differ[worst] <= 1e-10:
                faults[name] = (worst, differ[worst])
    assert not faults


@pytest.mark.parametrize("method", METHODS)
def test_gradients_go_where_they_belong(small_settings: Settings, method: Method) -> None:
    """Each weight that the optimizer has moves; what follows another has none."""
    settings = settings_of(method, small_settings)
    losses, gradients, _ = take_steps(0, 1, settings, STEPS)
    learner = build(settings)
    trained = {id(p) for group in learner.optimizer.param_groups for p in group["params"]}
    for name, parameter in learner.module.named_parameters():
        assert (id(parameter) in trained) == parameter.requires_grad, name
        assert (name in gradients) == parameter.requires_grad, name
        if name.split(".")[0] in FOLLOWERS:
            assert not parameter.requires_grad, name
        elif name in gradients:
            assert gradients[name].isfinite().all(), name
    assert any(gradient.abs().max() > 0 for gradient in gradients.values())
    assert all(loss.isfinite() for loss in losses)


@pytest.mark.parametrize("method", METHODS)
def test_three_and_three_steps_are_six_to_the_bit(
    small_settings: Settings, method: Method, tmp_path: Path
) -> None:
    """Weights, optimizer and whatever else the method keeps; and signs of collapse are logged."""
    epochs = {
        "schedule.epochs": 2,
        "training.checkpoint_every_epochs": 1,
        "probe.bank_images": 64,
    }
    settings = override(settings_of(method, small_settings), {**epochs, "data.global_batch": 96})
    shards = ShardSet.open(settings.data.train)
    probe = build_probe(settings, CPU)

    def run(folder: Path, start: int, stop: int, resume: Path | None) -> MemoryContext:
        torch.manual_seed(start)  # what was drawn before a start must not matter
        context = MemoryContext(folder)
        train(
            build_learner(settings, CPU, steps_per_epoch=3, num_images=shards.manifest.num_rows),
            settings,
            steps_per_epoch=3,
            batches=local_batches(settings, shards, start=start, stop=stop, device=CPU),
            context=context,
            probe=probe,
            resume=resume,
        )
        return context

    whole = run(tmp_path / "whole", 0, 6, None)
    run(tmp_path / "parts", 0, 3, None)
    begun = tmp_path / "parts" / "3"
    verify_checkpoint(begun)
    run(tmp_path / "again", 3, 6, begun)
    ends = [tmp_path / name / "6" for name in ("whole", "again")]
    for file in sorted(ends[0].glob("*.safetensors")):
        assert file.read_bytes() == (ends[1] / file.name).read_bytes(), file.name
    logged = {name for _, measures in whole.reports for name in measures}
    assert {"train/loss", "probe/rankme"} <= logged
    assert method == "barlow_twins" or "train/spread" in logged


@pytest.mark.parametrize("method", METHODS)
def test_parts_of_a_batch_give_the_gradients_of_their_rows(
    small_settings: Settings, method: Method
) -> None:
    """With `training.micro_batch` each method trains, to the same state at each repetition."""
    settings = override(settings_of(method, small_settings), {"training.micro_batch": 16})
    one, other = (take_steps(0, 1, settings, 3) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one[0], other[0], strict=True))
    assert all(torch.equal(one[2][name], other[2][name]) for name in one[2])
