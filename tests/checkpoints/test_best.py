"""A run's best checkpoint, beside those that it continues from."""

import shutil
from pathlib import Path

import torch

from bt_ray.checkpoints.best import best_checkpoint, keep_if_best
from bt_ray.checkpoints.checkpoint import last_checkpoint, save_checkpoint, verify_checkpoint
from bt_ray.checkpoints.state import Best
from bt_ray.config import Settings
from bt_ray.storage.store import Store
from tests.states import build_state

CPU = torch.device("cpu")


def test_a_better_one_takes_the_place_of_the_best(small_settings: Settings, tmp_path: Path) -> None:
    """In any storage; a checkpoint that is not the best leaves it as it is, and one comes again."""
    state, run = build_state(small_settings, CPU), Store(str(tmp_path / "run"))
    for step, score, kept in ((1, 0.2, 1), (2, 0.1, 1), (3, 0.4, 3), (4, 0.3, 3), (3, 0.4, 3)):
        state.step = step
        state.take_score(score, is_better=state.is_better(score))
        if step == 3:
            state.best = Best(3, 0.4)
        save_checkpoint(tmp_path / f"{step}-{score}", state, small_settings)
        keep_if_best(run, tmp_path / f"{step}-{score}")
        names = {name.rpartition("/")[0] for name in run.sizes()}
        assert names == {f"best/checkpoint_{kept:09d}"}
        shutil.rmtree(tmp_path / f"{step}-{score}")
    found = best_checkpoint(tmp_path / "run")
    assert found is not None
    assert verify_checkpoint(found[0])["step"] == 3
    assert last_checkpoint(tmp_path / "run") == (None, 0), "no run continues from it"
    assert best_checkpoint(tmp_path / "other") is None
