"""Classifiers and features, by Ray: the same as in this process."""

from pathlib import Path

import pytest
import torch

from bt_ray.config import DataSettings, ScalingSettings, Settings
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.evaluation.features import compute_features
from bt_ray.evaluation.features_on_ray import compute_on_ray
from bt_ray.evaluation.protocols import Protocol
from bt_ray.model.encoder import build_encoder
from bt_ray.model.pretrained import Pretrained
from bt_ray.training.classify import build_task, classify

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]

PROTOCOL = Protocol(epochs=3, batch=64, head_rate=0.1, encoder_rate=0.01, weight_decay=0.0)


@pytest.fixture
def pretrained(small_settings: Settings) -> Pretrained:
    torch.manual_seed(0)
    return Pretrained(build_encoder(small_settings).eval(), small_settings)


@pytest.mark.cluster
def test_features_are_the_same(pretrained: Pretrained, digits_shards: ShardSet) -> None:
    here = compute_features(pretrained, digits_shards, torch.device("cpu"))
    done: list[int] = []
    there = compute_on_ray(pretrained, digits_shards, torch.device("cpu"), done.append, workers=2)
    torch.testing.assert_close(there.x, here.x)
    assert torch.equal(there.labels, here.labels)
    assert (there.digests == here.digests).all()
    assert done[-1] == len(here)


def test_two_workers_train_the_classifier_of_this_process(
    pretrained: Pretrained, small_settings: Settings, tmp_path: Path
) -> None:
    data = DataSettings(train=small_settings.data.train, test=small_settings.data.test)
    found = []
    for workers in (0, 2):
        task = build_task(
            pretrained,
            PROTOCOL,
            data,
            kind="trial",
            storage=str(tmp_path / str(workers)),
            scaling=ScalingSettings(workers=workers, cpus_per_worker=0.5, threads_per_worker=1),
        )
        found.append(classify(task, pretrained))
    here, there = found
    assert there.steps == here.steps == 15
    assert there.scores == pytest.approx(here.scores, abs=0.02)
    assert there.encoder_before == here.encoder_before
    assert there.encoder_after != there.encoder_before
