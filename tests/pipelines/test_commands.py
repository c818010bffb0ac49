"""The commands as a user types them: on this machine, and as a job on a cluster."""

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from PIL import Image

from benchmarks.ray_nodes import RAY, Head, ray_head
from bt_ray.config import override, to_json
from bt_ray.errors import SettingsError
from bt_ray.presets import PRESETS, preset, starting_point
from pipelines.preset_table import LABELS, describe
from tests.pipelines.ours import foreign_lines

ROOT = Path(__file__).parents[2]
PYTHON = sys.executable
SMALL = ["--schedule.epochs", "2", "--schedule.warmup-epochs", "1", "--scaling.workers", "1"]


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True,
        timeout=240, check=False,
    )  # fmt: skip


def last_json(text: str) -> dict[str, Any]:
    """The last line of a log that is a JSON object."""
    lines = [line for line in text.splitlines() if line.startswith("{") and line.endswith("}")]
    record: dict[str, Any] = json.loads(lines[-1])
    return record


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["pretrain", "cifar"], "There is no preset 'cifar'"),
        (["pretrain", "digits", "--data.global-batch", "255"], "try 254 or 256"),
        (["pretrain", "digits", "--objective.redundancy-weight", "nan"], "must be a finite number"),
        (["pretrain", "digits", "--objective.redundancy-wieght", "1"], "redundancy-weight"),
        (["pretrain", "absent/settings.json"], "absent/settings.json cannot be read"),
        (["pretrain", "Makefile.json"], "The settings file Makefile.json cannot be read"),
        (["pretrain", "digits", "--dry-run", "--data.global-batch", "1"], "must be at least 2"),
        (["pretrain"], "usage:"),
        (["sweep", "redundancy_weight"], "usage:"),
        (["sweep", "nothing", "digits"], "add tune_spaces/nothing.py"),
        (["sweep", "redundancy_weight", "digits", "--trials", "0"], "trials=0 must be at least 1"),
        (["sweep", "joint", "digits", "--search", "grid"], "'joint' has no grid"),
        (["sweep", "simclr", "digits"], "add --objective.method simclr"),
        (["compare", "digits", "--rates", "0"], "must be finite numbers above 0"),
        (["compare", "digits", "--methods", "simclr", "simclr"], "names simclr twice"),
        (["compare", "digits", "--max-hours", "0"], "must be a finite number above 0"),
        (["prepare", "digits", "absent", "--max-bad-rate", "2"], "must lie between 0 and 1"),
        (["evaluate", "knn", "absent"], "'absent' is no encoder: give a run's folder"),
        (["export", "models:/absent@champion", "files"], "does not answer as it should"),
    ],
)
def test_a_wrong_word_is_answered_with_one_sentence(
    arguments: list[str], sentence: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as ended:
        import_module(f"pipelines.{arguments[0]}").main()
    shown = capsys.readouterr()
    assert ended.value.code == 2, shown.err
    assert sentence in shown.err
    assert shown.out == ""


def test_a_wrong_word_leaves_a_process_with_a_sentence_and_its_code() -> None:
    done = command(PYTHON, "-m", "pipelines.pretrain", "cifar", COLUMNS="200")
    assert done.returncode == 2, done.stderr
    assert "There is no preset 'cifar'" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.run
def test_a_dry_run_of_a_settings_file_says_what_the_run_will_be(tmp_path: Path) -> None:
    file = tmp_path / "settings.json"
    file.write_text(to_json(override(preset("digits"), {"schedule.epochs": 7})))
    done = command(
        PYTHON, "-m", "pipelines.pretrain", str(file), "--dry-run", "--name", "again",
        "--storage", str(tmp_path / "runs"), "--scaling.workers", "2..4", OMP_NUM_THREADS="1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == [file]
    record = json.loads(done.stdout)
    assert (record["run_id"], record["model_version"], record["scores"]) == (None, None, {})
    assert record["steps"] == 7 * 5
    assert record["paths"]["run"] == str(tmp_path / "runs" / "again")
    assert record["images_per_s"] > 0
    assert "instead of digits" in done.stderr
    assert "2..4; memory and time are those of 2" in done.stderr


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_says_what_it_takes(name: str) -> None:
    what, facts = describe(name)
    assert what
    assert tuple(facts) == LABELS
    assert facts["Command"].startswith(f"python -m pipelines.pretrain {name}")


def test_broken_settings_files_are_answered_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(SettingsError, match="holds no settings of a run"):
        starting_point(str(tmp_path / "settings.json"))


def test_prepare_writes_shards(tmp_path: Path) -> None:
    done = command(PYTHON, "-m", "pipelines.prepare", "digits:test", str(tmp_path / "shards"))
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert (record["images"], record["classes"]) == (360, 10)
    assert (tmp_path / "shards" / "manifest.json").is_file()


TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "5ec2e7" * 8}
"""What `export RAY_AUTH_MODE=token` and a token are, as docs/cluster.md has it."""


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """A Ray head on loopback that asks for a token, as `ray start --head` does by default."""
    with ray_head(**TOKEN) as started:
        yield started


@pytest.mark.cluster
def test_a_missing_or_wrong_token_is_refused_with_a_sentence(head: Head, tmp_path: Path) -> None:
    wrong = TOKEN | {"RAY_AUTH_TOKEN": "0" * 48}
    submitted = command(RAY, "job", "submit", "--address", head.jobs, "--", "true", **wrong)
    assert submitted.returncode != 0
    assert "token" in submitted.stdout + submitted.stderr
    for environment, fault in (
        ({"RAY_AUTH_MODE": "disabled"}, "the cluster asks for a token: give `export RAY_AUTH_MODE"),
        (wrong, "the cluster refuses this token: give `export RAY_AUTH_MODE=token`"),
    ):
        began = time.monotonic()
        done = command(
            PYTHON, "-m", "pipelines.pretrain", "digits", *SMALL, "--storage", str(tmp_path),
            RAY_ADDRESS=head.address, COLUMNS="300", **environment,
        )  # fmt: skip
        assert done.returncode == 2, done.stderr
        assert fault in done.stderr
        assert "Traceback" not in done.stderr
        assert time.monotonic() - began < 60  # of which the check takes a second


def make_jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), "teal").save(buffer, format="JPEG")
    return buffer.getvalue()


@pytest.mark.cluster
def test_a_submitted_job_gives_the_same_result_as_the_command(head: Head, tmp_path: Path) -> None:
    here = command(
        PYTHON, "-m", "pipelines.pretrain", "digits", *SMALL, "--storage", str(tmp_path / "here")
    )
    assert here.returncode == 0, here.stderr
    assert here.stdout.count("\n") == 1
    assert foreign_lines(here.stderr) == []
    snippet = here.stderr[here.stderr.index("    import mlflow") :]
    (tmp_path / "cat.jpg").write_bytes(make_jpeg())
    code = (
        "\n".join(line.strip() for line in snippet.splitlines()) + "\nprint(representations.shape)"
    )
    loaded = subprocess.run(
        [PYTHON, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == "(1, 256)"
    there = command(
        RAY, "job", "submit", "--address", head.jobs, "--working-dir", ".",
        "--runtime-env-json", json.dumps({"env_vars": {"BT_RAY_REVISION": "a" * 40}}), "--",
        PYTHON, "-m", "pipelines.pretrain", "digits", *SMALL, "--storage", str(tmp_path / "there"),
        **TOKEN,
    )  # fmt: skip
    assert there.returncode == 0, there.stdout + there.stderr
    one, other = json.loads(here.stdout), last_json(there.stdout)
    assert one["steps"] == other["steps"] == 10
    assert one["scores"] == other["scores"]
    assert one["model_version"] == other["model_version"] == "barlow-digits/1"
    assert Path(other["paths"]["checkpoint"]).is_dir()
    tags = MlflowClient(other["paths"]["mlflow"]).get_run(other["run_id"]).data.tags
    assert tags["mlflow.source.git.commit"] == "a" * 40
