import errno
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bt_ray.checkpoints.checkpoint import (
    last_checkpoint,
    newest_checkpoint,
    restore_checkpoint,
    save_checkpoint,
    verify_checkpoint,
)
from bt_ray.checkpoints.draft import draft_checkpoint
from bt_ray.checkpoints.host_copies import HostCopies
from bt_ray.checkpoints.state import TrainingState
from bt_ray.config import Settings, from_json, override, to_json
from bt_ray.errors import CheckpointError, RunFailedError
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
        verify_checkpoint(tmp_path / "c")


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
    monkeypatch.setattr("bt_ray.checkpoints.draft.SCHEMA_VERSION", 2)
    save_checkpoint(tmp_path / "c", state, small_settings)
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


def test_a_draft_is_that_of_the_moment_it_was_made(
    state: TrainingState, small_settings: Settings, tmp_path: Path
) -> None:
    """Training goes on before it is written: weights, momenta, buffers and numbers."""
    save_checkpoint(tmp_path / "now", state, small_settings)
    draft = draft_checkpoint(state, small_settings, HostCopies())
    with torch.no_grad():
        for tensor in state.module.state_dict().values():
            tensor.add_(1)
        for values in state.optimizer.state.values():
            values["momentum"].add_(1)
    state.step, state.replaced_images = 2, 5
    state.optimizer.param_groups[0]["lr"] = 7.0
    draft.write(tmp_path / "later")
    for file in (tmp_path / "now").iterdir():
        assert file.read_bytes() == (tmp_path / "later" / file.name).read_bytes(), file.name


def test_a_checkpoint_that_was_cut_short_is_seen_without_reading_it_all(
    state: TrainingState, small_settings: Settings, tmp_path: Path
) -> None:
    """One that was altered without that is left to whoever reads it all."""
    for step in (1, 2):
        state.step = step
        save_checkpoint(tmp_path / "train" / f"checkpoint_{step}", state, small_settings)
    newest = tmp_path / "train" / "checkpoint_2"
    assert newest_checkpoint(tmp_path) == last_checkpoint(tmp_path) == (newest, 2)
    for name in ("encoder.safetensors", "optimizer.safetensors", "settings.json"):
        whole = (newest / name).read_bytes()
        for cut in (0, 5, 20, len(whole) - 1):
            (newest / name).write_bytes(whole[:cut])
            assert newest_checkpoint(tmp_path)[1] == last_checkpoint(tmp_path)[1] == 1, (name, cut)
        (newest / name).unlink()
        assert newest_checkpoint(tmp_path)[1] == 1
        (newest / name).write_bytes(whole)
    altered = whole = (newest / "encoder.safetensors").read_bytes()
    altered = whole[:-1] + bytes([whole[-1] ^ 1])
    (newest / "encoder.safetensors").write_bytes(altered)
    assert (newest_checkpoint(tmp_path)[1], last_checkpoint(tmp_path)[1]) == (2, 1)


def test_a_disk_that_refuses_is_named(
    state: TrainingState, small_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(tensors: object, file: Path) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("bt_ray.checkpoints.draft.write_tensors", full)
    with pytest.raises(RunFailedError, match=r"of step 1 .* \(No space left on device\)\. Those"):
        save_checkpoint(tmp_path / "c", state, small_settings)


_KILLED = """
import sys
from concurrent.futures import Future
from pathlib import Path
import torch
from bt_ray.checkpoints import tensor_file
from bt_ray.checkpoints.draft import draft_checkpoint
from bt_ray.config import from_json, override
from bt_ray.training.local import LocalContext
from bt_ray.training.recorder import FolderRecorder
from bt_ray.training.stop import StopRequest
from tests.states import build_state

settings = from_json(Path(sys.argv[1]).read_text())
device = torch.device("cpu")
state = build_state(settings, device)
folder = Path(sys.argv[2])
context = LocalContext(folder, "", device, FolderRecorder(folder, StopRequest()))
for state.step in (1, 2):
    context.commit(state.step, draft_checkpoint(state, settings).write).result()

chunks, held = tensor_file._chunks, Future()

def half(tensors):
    yield from list(chunks(tensors))[: len(tensors) // 2]
    print("written half", flush=True)
    held.result()

tensor_file._chunks = half
state.step = 3
context.commit(state.step, draft_checkpoint(state, settings).write)
held.result()
"""


@pytest.mark.run
def test_a_kill_in_mid_write_leaves_the_checkpoint_before(
    small_settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "settings").write_text(to_json(small_settings))
    arguments = [sys.executable, "-c", _KILLED, str(tmp_path / "settings"), str(tmp_path / "run")]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written half\n"
        process.send_signal(signal.SIGKILL)
    unfinished = tmp_path / "run" / "local" / "unfinished"
    assert [file.name for file in unfinished.iterdir()] == ["encoder.safetensors"]
    folder = tmp_path / "run" / "local" / "checkpoint_000000002"
    assert last_checkpoint(tmp_path / "run") == newest_checkpoint(tmp_path / "run") == (folder, 2)
