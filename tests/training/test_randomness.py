"""Random layers draw from (seed, step, worker), so that a continued run equals a whole one."""

from pathlib import Path

import pytest
import torch

from bt_ray.checkpoints.checkpoint import last_checkpoint
from bt_ray.config import Settings, override
from bt_ray.data.preparation.prepare import prepare_data
from bt_ray.model.weights import ENCODER
from bt_ray.training.assignment import Pretraining
from bt_ray.training.local import train_here
from bt_ray.training.randomness import seed_step
from bt_ray.training.run_folder import locate_storage

ENCODERS = {
    "timm:vit_tiny_patch16_224": {"model.patch_px": 4, "model.drop_path": 0.2},
    "tests.model.encoder.own_encoders:good": {},
}


def test_what_is_drawn_hangs_on_seed_step_and_worker_alone() -> None:
    def drawn(*key: int) -> float:
        seed_step(*key)
        return float(torch.rand(()))

    keys = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    assert len({drawn(*key) for key in keys}) == len(keys)
    assert [drawn(*key) for key in keys] == [drawn(*key) for key in keys]


@pytest.mark.run
@pytest.mark.parametrize("name", ENCODERS)
def test_a_continued_run_with_dropout_equals_an_uninterrupted_one(
    small_settings: Settings, tmp_path: Path, name: str
) -> None:
    def trained(storage: str, *stops: int) -> bytes:
        settings = override(
            small_settings,
            {
                "storage": str(tmp_path / storage),
                "scaling.workers": 0,
                "model.encoder": name,
                "views.image_px": 8,
                "optimizer.kind": "adamw",
                **ENCODERS[name],
            },
        )
        settings = prepare_data(locate_storage(settings))
        assignment = Pretraining(settings)
        for stop in stops:
            torch.manual_seed(stop)  # what a new process would draw otherwise
            train_here(assignment, stop)
        checkpoint, step = last_checkpoint(assignment.run_folder)
        assert checkpoint is not None
        assert step == stops[-1]
        return (checkpoint / ENCODER).read_bytes()

    assert trained("whole", 6) == trained("in-two", 3, 6)
