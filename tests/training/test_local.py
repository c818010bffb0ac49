"""Whole runs in this process, without Ray."""

import shutil
from pathlib import Path

import pytest

from bt_ray.config import Settings, override
from bt_ray.data.plan import build_plan
from bt_ray.data.shards import ShardSet
from bt_ray.tracking.tracker import METRICS, read_history
from bt_ray.training.local import train_here
from bt_ray.training.state import ENCODER, last_checkpoint


def total_steps(settings: Settings) -> int:
    manifest = ShardSet.open(settings.data.train).manifest
    return build_plan(settings, manifest).steps_per_epoch * settings.schedule.epochs


@pytest.fixture
def settings(small_settings: Settings) -> Settings:
    return override(small_settings, {"scaling.workers": 0})


def test_a_run_that_lost_its_last_checkpoint_goes_on_from_the_one_before(
    settings: Settings, tmp_path: Path
) -> None:
    stop = total_steps(settings)
    whole, again = tmp_path / "whole", tmp_path / "again"
    train_here(settings, whole, stop)
    shutil.copytree(whole, again)
    newest, step = last_checkpoint(again)
    assert newest is not None
    assert step == stop == 6
    (newest / ENCODER).write_bytes(b"cut short")
    assert last_checkpoint(again)[1] == 5
    train_here(settings, again, stop)
    folders = [last_checkpoint(folder)[0] for folder in (whole, again)]
    files = [(folder / ENCODER).read_bytes() for folder in folders if folder]
    assert files[0] == files[1]
    assert len(list((again / "local").iterdir())) == 2
    assert list(read_history(again / METRICS)["train/loss"]) == [1, 2, 3, 4, 5, 6]


def test_no_checkpoint_is_step_zero(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path / "nothing") == (None, 0)
