"""A team's MLflow: thirty runs at once, passwords, and the registry."""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tyro
from mlflow import MlflowClient

from benchmarks.ray_nodes import free_ports
from bt_ray.config import Settings, from_json, in_use, override, to_json
from bt_ray.errors import TrackingError
from bt_ray.tracking.courier import Courier
from bt_ray.tracking.mlflow import MlflowRun, ending, start_run
from bt_ray.tracking.mlflow_inputs import record_inputs, recorded_inputs
from bt_ray.tracking.mlflow_record import run_of_folder
from bt_ray.tracking.registry import reserve_name
from bt_ray.tracking.tracker import METRICS, JsonLinesTracker
from bt_ray.training.launch import pretrain
from pipelines import register
from tests.tracking.team import Team, team_mlflow
from tests.tracking.test_registered_model import _ask, _wait_for, picture

pytestmark = pytest.mark.cluster
ROOT = Path(__file__).parents[2]
STEPS = 20
SWEEPS, TRIALS = 3, 9


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    with team_mlflow(tmp_path_factory.mktemp("team")) as found:
        yield found


@pytest.fixture
def user(team: Team, monkeypatch: pytest.MonkeyPatch) -> Team:
    """The team's server, on which this process is its keeper."""
    for name, value in team.users(team.admin, team.password).items():
        monkeypatch.setenv(name, value)
    return team


def one_run(settings: Settings, parent: MlflowRun | None) -> MlflowRun:
    """A run as `pretrain` records it, without training: settings, images, measures, its end."""
    folder = Path(settings.storage) / settings.name
    folder.mkdir(parents=True, exist_ok=True)
    run, _ = run_of_folder(folder, settings, parent=parent)
    with ending(run), Courier(folder / METRICS, [run], every_s=0.05):
        record_inputs(run, settings)
        worker = JsonLinesTracker(folder / METRICS)
        for step in range(1, STEPS + 1):
            worker.log(step, {"train/loss": measure(settings.name, step), "knn/top1": step / STEPS})
    return run


def measure(name: str, step: int) -> float:
    """Different in every run and step."""
    return step + sum(name.encode()) / 1000


def one_sweep(settings: Settings) -> dict[str, str]:
    """A sweep's parent and its trials, all at once: run ids by name."""
    folder = Path(settings.storage) / settings.name
    folder.mkdir(parents=True)
    parent, _ = run_of_folder(folder, settings)
    trials = [
        override(settings, {"name": f"{settings.name}-{n:03d}", "training.seed": n})
        for n in range(TRIALS)
    ]
    with ending(parent), ThreadPoolExecutor(TRIALS) as pool:
        runs = pool.map(lambda trial: one_run(trial, parent), trials)
        found = {trial.name: run.run_id for trial, run in zip(trials, runs, strict=True)}
    return found | {settings.name: parent.run_id}


SWEEP = """
import json, sys
from bt_ray.config import from_json
from tests.tracking.test_team import one_sweep
print(json.dumps(one_sweep(from_json(sys.stdin.read()))))
"""


@pytest.mark.timeout(900)
def test_thirty_runs_at_once_are_recorded_whole(
    user: Team, small_settings: Settings, tmp_path: Path
) -> None:
    """Three sweeps, each a process of its own: three parents and 27 trials, and nothing is lost."""
    processes = []
    for number in range(SWEEPS):
        settings = override(small_settings, {"name": f"sweep{number}", "tracking.experiment": "30"})
        process = subprocess.Popen(
            [sys.executable, "-c", SWEEP], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        assert process.stdin is not None
        process.stdin.write(to_json(settings))
        process.stdin.close()
        process.stdin = None
        processes.append(process)
    printed = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * SWEEPS
    told = [json.loads(text) for text in printed]
    assert sum(map(len, told)) == SWEEPS * (TRIALS + 1) == 30

    client = MlflowClient(user.uri)
    [experiment] = [e for e in client.search_experiments() if e.name == "30"]
    assert len(client.search_runs([experiment.experiment_id], max_results=100)) == 30
    for ids in told:
        sweep = min(ids, key=len)
        for name, run_id in ids.items():
            run = client.get_run(run_id)
            assert (run.info.run_name, run.info.status) == (name, "FINISHED")
            text = Path(client.download_artifacts(run_id, "settings.json", str(tmp_path)))
            settings = from_json(text.read_text())
            assert settings.name == name
            assert run.data.params == {k: str(v) for k, v in in_use(settings).items()}
            assert run.info.artifact_uri.startswith("mlflow-artifacts:")
            if name == sweep:
                continue
            assert run.data.tags["mlflow.parentRunId"] == ids[sweep]
            history = client.get_metric_history(run_id, "train/loss")
            expected = {step: measure(name, step) for step in range(1, STEPS + 1)}
            assert {m.step: m.value for m in history} == expected
            assert len(history) == STEPS
            inputs = recorded_inputs(run)
            assert {part: found["profile"]["num_rows"] for part, found in inputs.items()} == {
                "train": 360, "test": 1437,
            }  # fmt: skip
    assert user.password not in user.log.read_text()


def make_user(team: Team, name: str) -> str:
    """A user without rights of its own; its password."""
    from mlflow.server.auth.client import AuthServiceClient

    AuthServiceClient(team.uri).create_user(name, f"{name}-s3cret-password")
    return f"{name}-s3cret-password"


def test_who_is_not_let_in_is_told_so(
    user: Team, small_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a password, with a wrong one, and without the right to write."""
    start_run(override(small_settings, {"tracking.experiment": "theirs"}))
    reserve_name(user.uri, "theirs")
    guest = make_user(user, "guest")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wr0ng-password")
    with pytest.raises(TrackingError, match="does not let in the user 'keeper': set MLFLOW_") as no:
        start_run(small_settings)
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD")
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME")
    with pytest.raises(TrackingError, match="does not let in whoever asks without MLFLOW_TRACK"):
        start_run(small_settings)
    assert "wr0ng-password" not in str(no.value)
    environment = user.users("guest", guest)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(TrackingError, match="does not allow this to the user 'guest': ask its"):
        start_run(override(small_settings, {"tracking.experiment": "theirs"}))
    start_run(override(small_settings, {"tracking.experiment": "guest's own"}))
    reserve_name(user.uri, "guest's own")
    with pytest.raises(TrackingError, match=r"refuses the model 'theirs' \(it is not this user"):
        reserve_name(user.uri, "theirs")

    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wr0ng-password")
    done = registry("list")
    assert done.returncode == 2
    assert "does not let in the user 'guest'" in done.stderr
    assert "wr0ng" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def registry(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "pipelines.register", *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip


def answer(*arguments: str) -> dict[str, Any]:
    """The same in this process, which saves seconds: the record of what was done."""
    order: Any = tyro.cli(register.Order, args=[*arguments, "--json"])
    return register._COMMANDS[type(order)](order)


@pytest.mark.timeout(900)
def test_a_model_is_registered_promoted_rolled_back_and_served(
    user: Team, small_settings: Settings, tmp_path: Path
) -> None:
    settings = override(
        small_settings, {"scaling.workers": 0, "tracking.registered_model": "digits"}
    )
    runs = [
        pretrain(override(settings, {"name": f"{n} epochs", "schedule.epochs": n}), register=False)
        for n in (1, 3)
    ]
    worse, better = sorted(runs, key=lambda run: run.scores["knn_top1"] or 0)
    storage = ("--storage", settings.storage)
    for _ in range(2):
        for number, run in enumerate((worse, better), 1):
            registered = answer("register", run.paths["run"], *storage)
            assert registered["model_version"] == f"digits/{number}"
    assert answer("promote", "digits/1", *storage)["changed"] is True
    promoted = answer("promote", "digits/2", *storage)
    assert promoted["before"] == "digits/1"
    assert promoted["measure"] == "knn/top1"
    assert promoted["score"] == pytest.approx(better.scores["knn_top1"])
    refused = registry("promote", "digits/1", *storage)
    assert refused.returncode == 2
    assert "digits/1 is not better, and does not become champion" in refused.stderr
    assert answer("roll-back", "digits", *storage)["model_version"] == "digits/1"
    again = answer("promote", "digits/2", "--anyway", "it is the newer one", *storage)
    assert again["reason"] == "it is the newer one"
    [model] = answer("list", "digits", *storage)["models"]
    assert model["aliases"] == {"champion": "2"}
    assert [move["version"] for move in model["history"]["champion"]] == ["1", "2", "1", "2"]
    assert model["versions"][0]["tags"]["champion.anyway"] == "it is the newer one"

    (port,), log = free_ports(1), tmp_path / "serving.log"
    binaries = str(Path(sys.executable).parent)
    server = subprocess.Popen(
        [f"{binaries}/mlflow", "models", "serve", "-m",
         "models:/digits@champion", "--env-manager", "local", "--host", "127.0.0.1",
         "--port", str(port), "--workers", "1"],
        cwd=tmp_path, stdout=log.open("w"), stderr=subprocess.STDOUT, start_new_session=True,
        env=os.environ | {"PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"},
    )  # fmt: skip
    try:
        _wait_for(port, 600)
        text = base64.b64encode(picture()).decode()
        body = {"dataframe_split": {"columns": ["image"], "data": [[text]]}}
        vectors = np.asarray(_ask(port, body)["predictions"])
        assert vectors.shape == (1, 256)
        assert np.isfinite(vectors).all()
    except OSError as error:
        raise AssertionError(log.read_text()[-3000:]) from error
    finally:
        if server.poll() is None:
            os.killpg(server.pid, 15)
        server.wait()
    assert user.password not in log.read_text()
