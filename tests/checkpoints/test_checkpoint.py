import json
from pathlib import Path

import pytest
import torch

from bt_ray.checkpoints.checkpoint import (
    TrainingState,
    restore_checkpoint,
    save_checkpoint,
    verify_checkpoint,
)
from bt_ray.config import Settings, from_json, override
from bt_ray.errors import CheckpointError
from tests.states import build_state

CPU = torch.device("cpu")


@pytest.fixture
def state(small_settings: Settings) -> TrainingState:
    """A state after one step, so that the optimizer has something to remember."""
    state = build_state(small_settings, CPU)
    z_a, z_b = state.module(torch.randn(4, 3, 16, 16), torch.randn(4, 3, 16, 16))
    (z_a * z_b).sum().backward()
    state.optimizer.step()
    state.step = 1
    return state


def test_checkpoint_makes_a_round_trip(
    state: TrainingState, small_settings: Settings, tmp_path: Path
) -> None:
    save_checkpoint(tmp_path / "c", state, small_settings)
    other = build_state(override(small_settings, {"training.seed": 9}), CPU)
    restore_checkpoint(tmp_path / "c", other, small_settings)
    assert other.step == 1
    assert from_json((tmp_path / "c" / "settings.json").read_text()) == small_settings
    for name, value in state.module.state_dict().items():
        assert torch.equal(value, other.module.state_dict()[name]), name
    ours, theirs = state.optimizer.state_dict(), other.optimizer.state_dict()
    assert ours["param_groups"] == theirs["param_groups"]
    for index, entry in ours["state"].items():
        assert torch.equal(entry["momentum"], theirs["state"][index]["momentum"])


def test_scaler_is_part_of_the_checkpoint(small_settings: Settings, tmp_path: Path) -> None:
    state = build_state(override(small_settings, {"training.precision": "fp16"}), CPU)
    state.scaler.scale(torch.zeros(()))
    state.scaler.update(128.0)
    save_checkpoint(tmp_path / "c", state, small_settings)
    other = build_state(override(small_settings, {"training.precision": "fp16"}), CPU)
    restore_checkpoint(tmp_path / "c", other, small_settings)
    assert other.scaler.get_scale() == 128.0


def test_checkpoint_holds_nothing_pickled(
    state: TrainingState, small_settings: Settings, tmp_path: Path
) -> None:
    save_checkpoint(tmp_path / "c", state, small_settings)
    assert {file.suffix for file in (tmp_path / "c").iterdir()} == {".json", ".safetensors"}


@pytest.mark.parametrize("name", ["encoder.safetensors", "state.json", "optimizer.safetensors"])
def test_an_altered_file_is_named(
    state: TrainingState, small_settings: Settings, tmp_path: Path, name: str
) -> None:
    save_checkpoint(tmp_path / "c", state, small_settings)
    content = bytearray((tmp_path / "c" / name).read_bytes())
    content[-1] ^= 1
    (tmp_path / "c" / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=name):
        restore_checkpoint(tmp_path / "c", state, small_settings)


def test_a_checkpoint_without_its_manifest_is_none(
    state: TrainingState, small_settings: Settings, tmp_path: Path
) -> None:
    save_checkpoint(tmp_path / "c", state, small_settings)
    (tmp_path / "c" / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        verify_checkpoint(tmp_path / "c")


def test_a_newer_schema_is_refused(
    state: TrainingState, small_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bt_ray.checkpoints.checkpoint.SCHEMA_VERSION", 2)
    save_checkpoint(tmp_path / "c", state, small_settings)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="schema 2"):
        verify_checkpoint(tmp_path / "c")


def test_another_architecture_is_refused(
    state: TrainingState, small_settings: Settings, tmp_path: Path
) -> None:
    save_checkpoint(tmp_path / "c", state, small_settings)
    other = build_state(override(small_settings, {"model.projector_widths": [32, 32]}), CPU)
    with pytest.raises(CheckpointError, match=r"projector\.safetensors does not fit"):
        restore_checkpoint(tmp_path / "c", other, small_settings)


def test_state_file_is_readable(
    state: TrainingState, small_settings: Settings, tmp_path: Path
) -> None:
    save_checkpoint(tmp_path / "c", state, small_settings)
    record = json.loads((tmp_path / "c" / "state.json").read_text())
    assert (record["schema_version"], record["step"]) == (1, 1)
