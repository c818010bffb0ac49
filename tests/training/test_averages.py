"""The averaged weights of a run: kept, continued, named, and the same on any number of workers."""

from pathlib import Path

import numpy as np
import pytest
from torch import nn

from bt_ray.checkpoints.average import averaged_copy
from bt_ray.checkpoints.checkpoint import last_checkpoint
from bt_ray.checkpoints.manifest import Manifest
from bt_ray.config import Settings, override
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.stream.batches import local_batches
from bt_ray.errors import CheckpointError
from bt_ray.evaluation.encoder import open_encoder
from bt_ray.methods.barlow_twins import BarlowTwinsLearner
from bt_ray.methods.learner import Probing
from bt_ray.model.weights import ENCODER, fingerprint
from bt_ray.tracking.tracker import METRICS, read_history
from bt_ray.training.assignment import Pretraining
from bt_ray.training.local import train_here
from bt_ray.training.loop import train
from tests.training.test_loop import CPU, MemoryContext
from tests.training.test_selection import files, scored
from tests.workers import run_workers


@pytest.mark.run
def test_an_average_survives_a_restart_bit_for_bit(
    small_settings: Settings, tmp_path: Path
) -> None:
    settings = override(
        scored(small_settings, average_decay=0.9), {"training.checkpoint_every_epochs": 0.5}
    )
    storage = Path(settings.storage)
    train_here(Pretraining(override(settings, {"name": "whole"})), 4)
    halves = Pretraining(override(settings, {"name": "halves"}))
    train_here(halves, 2)
    train_here(halves, 4)
    plain = override(settings, {"name": "plain", "training.average_decay": None})
    train_here(Pretraining(plain), 4)
    [whole, again, without] = [
        files(last_checkpoint(storage / name)[0] or tmp_path)
        for name in ("whole", "halves", "plain")
    ]
    for name in ("average.safetensors", ENCODER, "optimizer.safetensors", "state.json"):
        assert whole[name] == again[name], name
    assert whole[ENCODER] == without[ENCODER], "it changes nothing of what is trained"
    assert "average.safetensors" not in without
    history = read_history(storage / "whole" / METRICS)
    assert history["probe/rankme"][0] == history["probe_average/rankme"][0], "it begins as they are"
    assert history["probe/rankme"][4] != history["probe_average/rankme"][4]
    assert np.isfinite(history["knn_average/top1"][4])

    average, run = open_encoder(f"{storage / 'whole'}/average", settings)
    trained, of_trained = open_encoder(str(storage / "whole"), settings)
    assert run == of_trained
    assert fingerprint(average.encoder) != fingerprint(trained.encoder)
    with pytest.raises(CheckpointError, match=r"no --training\.average-decay"):
        open_encoder(f"{storage / 'plain'}/average", settings)
    checkpoint, _ = last_checkpoint(storage / "whole")
    assert checkpoint is not None
    with averaged_copy(checkpoint) as folder:
        Manifest.read(folder).verify()
        assert (folder / ENCODER).read_bytes() == whole["average.safetensors"]


def _average_of(rank: int, world_size: int, settings: Settings, folder: Path) -> dict[str, object]:

    shards, given = ShardSet.open(settings.data.train), list[nn.Module]()

    def probe(module: nn.Module, average: nn.Module) -> Probing:
        given.append(average)
        return Probing(measures={})

    learner = BarlowTwinsLearner(settings, CPU, steps_per_epoch=2)
    train(
        learner,
        settings,
        steps_per_epoch=2,
        batches=local_batches(
            settings, shards, start=0, stop=4, device=CPU, rank=rank, world_size=world_size
        ),
        context=MemoryContext(folder, rank=rank),
        probe=probe,
    )
    trained = {id(p) for group in learner.optimizer.param_groups for p in group["params"]}
    assert not any(id(p) in trained or p.requires_grad for p in given[-1].parameters())
    return {name: value.double().numpy() for name, value in given[-1].state_dict().items()}


@pytest.mark.run
def test_the_average_is_the_same_on_any_number_of_workers(
    small_settings: Settings, tmp_path: Path
) -> None:
    changes = {"data.global_batch": 32, "schedule.epochs": 2}
    settings = override(scored(small_settings, average_decay=0.8), changes)
    [alone] = run_workers(1, _average_of, settings, tmp_path / "1")
    first, second = run_workers(2, _average_of, settings, tmp_path / "2")
    for name, value in alone.items():
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
        np.testing.assert_allclose(first[name], value, rtol=1e-3, atol=1e-4, err_msg=name)
