"""A run whose storage is an object store: killed, continued, evaluated, embedded, shown."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bt_ray.checkpoints.checkpoint import last_checkpoint
from bt_ray.config import Settings, override, to_json
from bt_ray.errors import LaunchError
from bt_ray.evaluation.encoder import open_encoder
from bt_ray.evaluation.probe import Probe
from bt_ray.evaluation.score import VALIDATION_SCORE
from bt_ray.model.weights import fingerprint
from bt_ray.storage.names import folder_of
from bt_ray.storage.store import Store
from bt_ray.storage.working_copy import place_of
from bt_ray.tracking.tracker import METRICS
from bt_ray.training.launch import pretrain
from bt_ray.training.run_folder import sole_owner
from tests.object_store import CREDENTIALS, object_store

pytestmark = pytest.mark.run


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with pytest.MonkeyPatch.context() as environment, object_store("far") as options:
        for name, value in CREDENTIALS.items():
            environment.setenv(name, value)
        yield Store(f"s3://far/runs?{options}")


@pytest.fixture
def settings(
    small_settings: Settings, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Settings:
    """A run of two epochs in this process, which has a temporary folder to itself."""
    monkeypatch.setattr("tempfile.tempdir", str(_machine(tmp_path, 1)))
    changes = {"storage": store.uri, "scaling.workers": 0, "schedule.epochs": 2}
    return override(small_settings, changes)


def _machine(tmp_path: Path, number: int) -> Path:
    """The temporary folder of a machine."""
    folder = tmp_path / f"machine{number}"
    folder.mkdir(exist_ok=True)
    return folder


def test_another_machine_goes_on_to_the_same_weights(
    settings: Settings, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = override(settings, {"storage": str(tmp_path / "here")})
    undisturbed = pretrain(here, register=False)
    half = override(settings, {"schedule.epochs": 2, "scaling.max_hours": 1e-9})
    first = pretrain(half, register=False)
    assert first.steps < first.total_steps
    monkeypatch.setattr("tempfile.tempdir", str(_machine(tmp_path, 2)))
    again = pretrain(settings, register=False)
    assert again.steps == again.total_steps == undisturbed.steps
    assert again.run_id == first.run_id
    assert again.stream_digest == undisturbed.stream_digest
    ours, _ = last_checkpoint(folder_of(store.uri) / "small")
    theirs, _ = last_checkpoint(tmp_path / "here" / "small")
    assert ours is not None
    assert theirs is not None
    for name in ("encoder.safetensors", "optimizer.safetensors"):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes()
    names = set(store.below("small").sizes())
    assert {METRICS, "settings.json", "summary.json", "mlflow.db", "figures/curves.png"} <= names
    kept = {name.split("/")[1] for name in names if name.startswith("local/")}
    assert len(kept) == 2
    lines = store.below("small").read(METRICS).decode().splitlines()
    assert {json.loads(line)["step"] for line in lines} >= set(range(1, again.steps + 1))
    assert "claim.json" not in names, "it is free again"
    assert again.paths["run"] == store.below("small").uri


def test_a_run_that_goes_on_elsewhere_is_refused(settings: Settings, store: Store) -> None:
    from bt_ray.storage.claim import claimed

    with (
        claimed(store.below("taken").uri, beat_s=0.2),
        pytest.raises(LaunchError, match="is going already"),
        sole_owner(folder_of(store.uri) / "taken"),
    ):
        pass


def test_what_a_killed_driver_had_is_gone_on_with(
    settings: Settings, store: Store, tmp_path: Path
) -> None:
    """Its claim is free within a minute, and nothing that it had committed is lost."""
    named = override(settings, {"name": "killed", "schedule.epochs": 40})
    file = tmp_path / "settings.json"
    file.write_text(to_json(named))
    command = [sys.executable, "-m", "pipelines.pretrain", str(file)]
    environment = {**os.environ, "TMPDIR": str(_machine(tmp_path, 2))}
    driver = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    run = store.below("killed")
    while not any(name.startswith("local/") for name in run.sizes()):
        assert driver.poll() is None
        time.sleep(0.2)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    began = time.monotonic()
    again = pretrain(override(named, {"scaling.max_hours": 1e-9}), register=False)
    assert time.monotonic() - began < 100
    assert 0 < again.steps < again.total_steps


def test_commands_take_the_runs_uri(settings: Settings, store: Store, tmp_path: Path) -> None:
    run = store.below("small").uri
    for words in (
        ["evaluate", "knn", run, "--storage", store.uri],
        ["embed", settings.data.train, str(tmp_path / "vectors"), "--model", run, "--workers", "0"],
        ["report", run, "--output", str(tmp_path / "report.html")],
    ):
        done = subprocess.run(
            [sys.executable, "-m", f"pipelines.{words[0]}", *words[1:]],
            env={**os.environ, "TMPDIR": str(_machine(tmp_path, 3))},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
    assert any(name.startswith("evaluations/") for name in store.sizes())
    assert b"small" in (tmp_path / "report.html").read_bytes()
    assert "Evaluations" not in done.stderr, "those of the run are found beside it"


def test_no_object_is_written_elsewhere_than_below_the_copy(
    settings: Settings, store: Store, tmp_path: Path
) -> None:
    import boto3

    place = f"http://{store.uri.partition('endpoint_override=')[2].partition('&')[0]}"
    client = boto3.client("s3", endpoint_url=place)
    names = ("../../../../outside", "fine/inside", "a//b", "c/./d")
    for name in names:
        client.put_object(Bucket="far", Key=f"runs/hostile/{name}", Body=b"x")
    folder = place_of(store.below("hostile").uri)
    assert [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()] == [
        "fine/inside"
    ]
    assert not list(tmp_path.parent.rglob("outside"))


@pytest.mark.slow
def test_an_ablation_is_kept_there(settings: Settings, store: Store, tmp_path: Path) -> None:
    """Another machine finds its results, and trains nothing again."""
    file = tmp_path / "settings.json"
    file.write_text(to_json(override(settings, {"schedule.epochs": 1})))
    told = []
    for number in (4, 5):
        done = subprocess.run(
            [sys.executable, "-m", "pipelines.ablate", "figure5", str(file), "--seeds", "1",
             "--values", "0.01"],
            env={**os.environ, "TMPDIR": str(_machine(tmp_path, number))},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        told.append(json.loads(done.stdout.splitlines()[-1])["scores"])
    assert told[0] == told[1]
    assert any(name.startswith("ablations/results/") for name in store.sizes())


def test_the_best_checkpoint_is_kept_there_and_opened_from_there(
    settings: Settings, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Better after step 2, and then never again: the last two are those of steps 3 and 4."""
    scores = [score for score in (0.0, 0.1, 0.9, 0.2, 0.3) for _ in ("weights", "average")]
    monkeypatch.setattr(Probe, "_score_validation", lambda *_: {VALIDATION_SCORE: scores.pop(0)})
    changes = {
        "name": "selected", "training.probe_every_epochs": 0.5, "training.keep_best": True,
        "training.average_decay": 0.9,
    }  # fmt: skip
    summary = pretrain(override(settings, changes), register=False)
    assert summary.best == {"step": 2, "score": 0.9}
    names = {name for name in store.below("selected").sizes() if "/checkpoint_" in name}
    assert {name.rpartition("/")[0] for name in names} == {
        "best/checkpoint_000000002", "local/checkpoint_000000003", "local/checkpoint_000000004",
    }  # fmt: skip
    monkeypatch.setattr("tempfile.tempdir", str(_machine(tmp_path, 2)))
    run = store.below("selected").uri
    place, mark, options = run.partition("?")
    prints = {
        fingerprint(open_encoder(f"{place}{part}{mark}{options}", settings)[0].encoder)
        for part in ("", "/best", "/average", "/best/average")
    }
    assert len(prints) == 4
    by_uri, recorded = open_encoder(f"{place}/best{mark}{options}", settings)
    assert recorded is not None
    assert recorded.run_id == summary.run_id
    assert by_uri.settings.name == "selected"
