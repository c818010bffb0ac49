"""All workers continue from what the first one found and verified."""

from pathlib import Path

import pytest
import torch

from bt_ray.checkpoints import manifest
from bt_ray.checkpoints.checkpoint import newest_checkpoint, save_checkpoint
from bt_ray.checkpoints.resume import agree_on_checkpoint
from bt_ray.config import Settings
from bt_ray.errors import CheckpointError
from tests.states import build_state
from tests.workers import run_workers

CPU = torch.device("cpu")
LARGE = ["encoder.safetensors", "optimizer.safetensors", "projector.safetensors"]


@pytest.fixture
def run_folder(small_settings: Settings, tmp_path: Path) -> Path:
    """A run with checkpoints of steps 1 and 2."""
    state = build_state(small_settings, CPU)
    for state.step in (1, 2):
        folder = tmp_path / "run" / "train" / f"checkpoint_{state.step}"
        save_checkpoint(folder, state, small_settings)
    return tmp_path / "run"


def _agree(rank: int, world_size: int, run_folder: Path, own: list[Path]) -> tuple[str, list[str]]:
    """What a worker was told, and which files of tensors it hashed."""
    hashed, sha256 = [], manifest.sha256

    def counting(file: Path) -> str:
        hashed.append(file.name)
        return sha256(file)

    manifest.sha256 = counting
    try:
        found = agree_on_checkpoint(own[rank] if own else run_folder, CPU)
        told = f"{found[0] and found[0].name} {found[1]}"
    except CheckpointError as error:
        told = str(error)
    return told, sorted(name for name in hashed if name in LARGE)


@pytest.mark.run
def test_one_worker_reads_each_file_once_and_all_hear(run_folder: Path, tmp_path: Path) -> None:
    """Also where the others' view of the folder is an old one."""
    for own in ([], [run_folder, tmp_path / "nothing"]):
        answers = run_workers(2, _agree, run_folder, own)
        assert answers == [("checkpoint_2 2", LARGE), ("checkpoint_2 2", [])]
    answers = run_workers(2, _agree, tmp_path / "nothing", [])
    assert answers == [("None 0", []), ("None 0", [])]


@pytest.mark.run
def test_a_damaged_one_ends_this_start_and_the_next_finds_the_one_before(run_folder: Path) -> None:
    """On every worker, and where the data begin, which `newest_checkpoint` says."""
    file = run_folder / "train" / "checkpoint_2" / "encoder.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert newest_checkpoint(run_folder)[1] == 2, "the data are to begin at step 2"
    answers = run_workers(2, _agree, run_folder, [])
    assert all("encoder.safetensors in checkpoint" in told for told, _ in answers)
    assert newest_checkpoint(run_folder)[1] == 1, "and then at step 1"
    answers = run_workers(2, _agree, run_folder, [])
    assert [told for told, _ in answers] == ["checkpoint_1 1"] * 2
