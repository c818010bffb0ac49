"""Damage to a checkpoint is found before anything of it is parsed, and told by the file's name."""

import json
import logging
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bt_ray.checkpoints import checkpoint, manifest
from bt_ray.checkpoints.checkpoint import (
    last_checkpoint,
    newest_checkpoint,
    replaced_images,
    restore_checkpoint,
    save_checkpoint,
    stream_digest,
    verify_checkpoint,
)
from bt_ray.checkpoints.draft import draft_checkpoint
from bt_ray.checkpoints.manifest import Manifest, sha256, write_manifest
from bt_ray.checkpoints.resume import agree_on_checkpoint
from bt_ray.config import Settings, override
from bt_ray.errors import AlteredCheckpointError, CheckpointError, NewerSchemaError, RunFailedError
from bt_ray.evaluation.encoder import open_encoder
from bt_ray.model import weights, weights_file
from bt_ray.training.first_weights import find_first_weights
from bt_ray.training.local import LocalContext
from bt_ray.training.recorder import FolderRecorder
from bt_ray.training.stop import StopRequest
from tests.states import build_state

CPU = torch.device("cpu")
FLIPS, CUTS = 100, 40
NAMES = (
    "encoder.safetensors", "manifest.json", "optimizer.safetensors", "projector.safetensors",
    "settings.json", "state.json",
)  # fmt: skip


@pytest.fixture
def run_folder(small_settings: Settings, tmp_path: Path) -> Path:
    """A run with checkpoints of steps 1 and 2."""
    state = build_state(small_settings, CPU)
    for state.step in (1, 2):
        with torch.no_grad():
            for tensor in state.module.parameters():
                tensor.add_(0.1)
        folder = tmp_path / "small" / "local" / f"checkpoint_{state.step:09d}"
        save_checkpoint(folder, state, small_settings)
    return tmp_path / "small"


@pytest.fixture
def newest(run_folder: Path) -> Path:
    return run_folder / "local" / "checkpoint_000000002"


def without_sizes(folder: Path) -> None:
    """Rewrites a manifest as version 0.1 wrote it."""
    sums = {name: listed.sha256 for name, listed in Manifest.read(folder).files.items()}
    (folder / "manifest.json").write_text(json.dumps(sums, indent=2))


def damages(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Files and what damage made of them: flipped bits and cut ends, the same ones each time."""
    random_number = random.Random(0)
    whole = {name: (folder / name).read_bytes() for name in NAMES}
    for flip in range(FLIPS):
        name = NAMES[flip % len(NAMES)]
        content = bytearray(whole[name])
        reach = len(content) if flip % 2 else min(len(content), 512)  # also often in headers
        content[random_number.randrange(reach)] ^= 1 << random_number.randrange(8)
        yield name, bytes(content)
    for cut in range(CUTS):
        name = NAMES[cut % len(NAMES)]
        yield name, whole[name][: random_number.randrange(len(whole[name]))]


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What is parsed from now on: the bytes of JSON texts and of files of tensors."""
    seen: list[bytes] = []
    loads = json.loads

    def load_json(text: str | bytes, **options: Any) -> Any:
        seen.append(text.encode() if isinstance(text, str) else bytes(text))
        return loads(text, **options)

    def load_tensors(file: Path) -> dict[str, torch.Tensor]:
        seen.append(Path(file).read_bytes())
        raise AssertionError("no tensor is to be loaded")

    monkeypatch.setattr(json, "loads", load_json)
    for module in (checkpoint, weights, weights_file):
        monkeypatch.setattr(module, "load_file", load_tensors)
    return seen


@pytest.mark.parametrize("schema", [1, 2])
def test_flipped_bits_and_cut_ends_are_found_unparsed(
    newest: Path, run_folder: Path, parsed: list[bytes], schema: int
) -> None:
    """By whoever asks for the checkpoint, and a run goes on from the one before."""
    if schema == 1:
        without_sizes(newest)
    found = 0
    for name, content in damages(newest):
        whole = (newest / name).read_bytes()
        (newest / name).write_bytes(content)
        with pytest.raises(CheckpointError) as told:
            verify_checkpoint(newest)
        assert str(newest) in str(told.value)
        if (schema, name) != (1, "manifest.json"):  # there the flip may be in another file's name
            assert str(told.value).startswith(f"{name} in checkpoint "), str(told.value)
        assert last_checkpoint(run_folder)[1] == 1, name
        assert not any(content.startswith(piece) for piece in parsed if len(piece) > 2), name
        (newest / name).write_bytes(whole)
        found += 1
    assert found == FLIPS + CUTS
    assert last_checkpoint(run_folder) == (newest, 2)


def evaluate(place: Path, settings: Settings) -> None:
    open_encoder(str(place), settings)


def start_from(place: Path, settings: Settings) -> None:
    find_first_weights(override(settings, {"model.start_from": str(place)}))


def resume(place: Path, settings: Settings) -> None:
    verify_checkpoint(place)
    restore_checkpoint(place, build_state(settings, CPU), settings)


@pytest.mark.parametrize("read", [evaluate, start_from, resume])
def test_every_reader_refuses_a_damaged_checkpoint_and_names_the_file(
    newest: Path,
    small_settings: Settings,
    parsed: list[bytes],
    read: Callable[[Path, Settings], None],
) -> None:
    for name in NAMES:
        whole = (newest / name).read_bytes()
        for content in (whole[:-1], whole[:1], b"", whole + b" ", whole[:-1] + b"\xff"):
            (newest / name).write_bytes(content)
            with pytest.raises(CheckpointError, match=f"^{name} in checkpoint {newest}"):
                read(newest, small_settings)
        (newest / name).unlink()
        with pytest.raises(CheckpointError, match=name):
            read(newest, small_settings)
        (newest / name).write_bytes(whole)


def test_where_a_run_stands_is_told_without_a_look_into_damaged_texts(
    newest: Path, small_settings: Settings
) -> None:
    (newest / "state.json").write_bytes((newest / "state.json").read_bytes().replace(b"2", b"3"))
    for ask in (stream_digest, replaced_images):
        with pytest.raises(AlteredCheckpointError, match=r"^state\.json"):
            ask(newest)
    with pytest.raises(AlteredCheckpointError, match=r"^state\.json"):
        restore_checkpoint(newest, build_state(small_settings, CPU), small_settings)


@pytest.mark.parametrize("read", [evaluate, start_from])
def test_a_run_is_read_from_the_checkpoint_before_and_a_warning_says_so(
    newest: Path,
    run_folder: Path,
    small_settings: Settings,
    caplog: pytest.LogCaptureFixture,
    read: Callable[[Path, Settings], None],
) -> None:
    content = bytearray((newest / "projector.safetensors").read_bytes())
    content[-1] ^= 1
    (newest / "projector.safetensors").write_bytes(content)
    with caplog.at_level(logging.WARNING):
        read(run_folder, small_settings)
        read(run_folder, small_settings)
    [said] = [record.getMessage() for record in caplog.records]
    assert said.startswith(f"projector.safetensors in checkpoint {newest} was altered")
    assert said.endswith("checkpoint_000000001 is taken.")


def test_files_of_two_checkpoints_do_not_make_one(newest: Path, run_folder: Path) -> None:
    older = newest.with_name("checkpoint_000000001")
    for name in NAMES:
        ours, theirs = (newest / name).read_bytes(), (older / name).read_bytes()
        if ours == theirs:
            continue
        (newest / name).write_bytes(theirs)
        assert last_checkpoint(run_folder) == (older, 1), name
        (older / name).write_bytes(ours)
        with pytest.raises(AlteredCheckpointError if name != "manifest.json" else CheckpointError):
            verify_checkpoint(older)
        (newest / name).write_bytes(ours)
        (older / name).write_bytes(theirs)
    assert last_checkpoint(run_folder) == (newest, 2)


def test_a_file_that_is_not_listed_is_never_read(
    newest: Path, run_folder: Path, small_settings: Settings
) -> None:
    """Such as one of another checkpoint, or what a person put there."""
    with_predictor = override(small_settings, {"model.predictor_widths": [8, 64]})
    save_checkpoint(run_folder / "other", build_state(with_predictor, CPU), with_predictor)
    extra = newest / "predictor.safetensors"
    extra.write_bytes((run_folder / "other" / extra.name).read_bytes())
    (newest / "notes.txt").write_text("ours")
    assert last_checkpoint(run_folder) == (newest, 2)
    restore_checkpoint(newest, build_state(small_settings, CPU), small_settings)
    listed = Manifest.read(newest)
    with pytest.raises(CheckpointError, match=r"has no predictor\.safetensors"):
        listed.require(extra.name)
    with pytest.raises(CheckpointError, match=r"has no notes\.txt"):
        listed.content("notes.txt")


@pytest.mark.parametrize("place", ["outside", "sibling"])
def test_a_link_that_leads_out_is_refused_whatever_it_leads_to(
    newest: Path, tmp_path: Path, place: str
) -> None:
    for name in NAMES:
        file = newest / name
        target = tmp_path / name if place == "outside" else newest.parent / f"own-{name}"
        target.write_bytes(file.read_bytes())
        content = file.read_bytes()
        file.unlink()
        file.symlink_to(target)
        with pytest.raises(CheckpointError, match=f"{name} in .* is a link that leads out of it"):
            verify_checkpoint(newest)
        file.unlink()
        file.write_bytes(content)
    verify_checkpoint(newest)


def test_what_is_no_file_is_not_waited_for(newest: Path) -> None:
    for name in NAMES:
        content = (newest / name).read_bytes()
        (newest / name).unlink()
        os.mkfifo(newest / name)
        with pytest.raises(CheckpointError, match=name):
            verify_checkpoint(newest)
        (newest / name).unlink()
        (newest / name).write_bytes(content)


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/hostname", "a/b", "..", ".", "", "a\\b", "\0"]
)
def test_a_manifest_that_names_a_path_is_refused(
    newest: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one whose own sum is right."""
    (newest.parent / "outside").write_bytes(b"")
    size = os.stat_result((0,) * 10)
    monkeypatch.setattr(Path, "stat", lambda *_, **__: size)
    write_manifest(newest, 2, {name: "0" * 64})
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="is not the name of a file in its folder"):
        verify_checkpoint(newest)


@pytest.mark.parametrize(
    "text",
    ["[]", "{}", '{"../x": "' + "0" * 64 + '"}', "[" * 100_000, '{\n  "..": "' + "0" * 64 + '"\n}'],
)
def test_what_is_no_manifest_is_refused(newest: Path, text: str) -> None:
    (newest / "manifest.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"manifest\.json"):
        verify_checkpoint(newest)


def test_a_newer_manifest_is_not_passed_over(
    newest: Path, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sums = {name: sha256(newest / name) for name in NAMES if name != "manifest.json"}
    monkeypatch.setattr(manifest, "SCHEMA_VERSION", 3)
    write_manifest(newest, 2, sums)
    monkeypatch.undo()
    for find in (last_checkpoint, newest_checkpoint):
        with pytest.raises(NewerSchemaError, match="has schema 3"):
            find(run_folder)


def test_a_run_does_not_begin_anew_over_checkpoints_that_were_altered(run_folder: Path) -> None:
    for folder in (run_folder / "local").iterdir():
        content = bytearray((folder / "encoder.safetensors").read_bytes())
        content[100] ^= 1
        (folder / "encoder.safetensors").write_bytes(content)
    with pytest.raises(AlteredCheckpointError, match=r"encoder\.safetensors in .* To begin anew"):
        last_checkpoint(run_folder)


def test_a_run_begins_anew_if_its_first_checkpoint_was_cut_off(
    newest: Path, run_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (newest.with_name("checkpoint_000000001") / "manifest.json").unlink()
    (newest / "encoder.safetensors").write_bytes(b"")
    assert last_checkpoint(run_folder) == (None, 0)
    assert "encoder.safetensors" in caplog.text
    assert "there is none before it" in caplog.text


def test_a_damaged_later_checkpoint_pushes_no_whole_one_out(
    newest: Path, run_folder: Path, small_settings: Settings
) -> None:
    """A run that goes on from the one before keeps what it writes from there."""
    local = run_folder / "local"
    (local / "checkpoint_000000001").rename(local / "checkpoint_000000008")
    newest.rename(local / "checkpoint_000000009")
    context = LocalContext(run_folder, "", CPU, FolderRecorder(run_folder, StopRequest()))
    state = build_state(small_settings, CPU)
    for state.step in (1, 2, 3):
        context.commit(state.step, draft_checkpoint(state, small_settings).write).result()
    kept = sorted(int(folder.name[-1]) for folder in local.iterdir())
    assert kept == [2, 3, 8, 9]


def test_a_storage_that_fails_is_no_damage(
    newest: Path, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest checkpoint is not passed over for a read that may succeed the next time."""

    def fail(file: Path) -> str:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(manifest, "sha256", fail)
    for ask in (last_checkpoint, lambda folder: agree_on_checkpoint(folder, CPU)):
        with pytest.raises(RunFailedError, match=r"(encoder|settings)\..* \(Input/output error\)"):
            ask(run_folder)
    monkeypatch.undo()
    assert last_checkpoint(run_folder) == (newest, 2)


def test_on_a_read_only_disk_all_workers_hear_of_the_damage(
    newest: Path, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = bytearray((newest / "encoder.safetensors").read_bytes())
    content[-1] ^= 1
    (newest / "encoder.safetensors").write_bytes(content)

    def refuse(self: Path, target: Path) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(CheckpointError, match=r"set aside \(Read-only file system\): remove it"):
        agree_on_checkpoint(run_folder, CPU)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match=r"encoder\.safetensors in checkpoint"):
        agree_on_checkpoint(run_folder, CPU)
    assert agree_on_checkpoint(run_folder, CPU) == (newest.with_name("checkpoint_000000001"), 1)
