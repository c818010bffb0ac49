"""A preparation on a cluster: the same bytes on any number of CPUs, and after any death."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest

from bt_ray.data.preparation.job import Treatment
from bt_ray.data.preparation.parallel import run_on_cluster
from bt_ray.data.preparation.write import write_shards
from bt_ray.data.sources import open_source
from bt_ray.errors import DataError
from tests.data.pictures import imagenet_train, write_folder
from tests.data.preparation.test_preparation import contents

pytestmark = pytest.mark.ray
ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bt_ray.data.preparation.job._ROWS_PER_SHARD", 10)


def test_the_result_does_not_depend_on_the_number_of_cpus(cluster: None, tmp_path: Path) -> None:
    """Nor on Ray, with images resized and some left out."""
    folder = tmp_path / "images"
    imagenet_train(folder / "train.tar", classes=5, each=20)
    source = open_source(str(folder / "train.tar"))
    treatment = Treatment(max_side_px=10, on_bad_image="skip")
    runners = {"here": None, "1": partial(run_on_cluster, cpus=1), "4": run_on_cluster}
    digests = set()
    for name, runner in runners.items():
        more = {} if runner is None else {"run_all": runner}
        written = write_shards(
            source, str(tmp_path / name), rows_per_row_group=5, treatment=treatment, **more
        )
        digests.add(written.manifest.digest)
        assert contents(tmp_path / name) == contents(tmp_path / "here")
        assert len(written.manifest.shards) == 10
    assert len(digests) == 1


def test_tasks_run_beside_each_other_in_other_processes(cluster: None, tmp_path: Path) -> None:
    """Each of two tasks ends only when the other has begun."""
    folder = str(tmp_path)

    def task(number: int) -> str:
        Path(folder, f"began-{number}").touch()
        deadline = time.time() + 100
        while len(list(Path(folder).iterdir())) < 2:
            if time.time() > deadline:
                return "alone"
            time.sleep(0.05)
        return str(os.getpid())

    told = set(run_on_cluster([partial(task, number) for number in range(2)], cpus=2))
    assert len(told) == 2
    assert not told & {"alone", str(os.getpid())}


def test_a_bad_image_is_named_from_far_away(cluster: None, tmp_path: Path) -> None:
    """One sentence, as without Ray, and not a task's traceback."""
    folder = write_folder(tmp_path / "images", {"story.jpg": b"once upon a time"})
    with pytest.raises(DataError, match=r"^'story.jpg' cannot be decoded \(no image\)"):
        write_shards(
            open_source(folder), str(tmp_path / "out"), rows_per_row_group=5,
            run_all=run_on_cluster,
        )  # fmt: skip


PROGRAM = """
import bt_ray.data.preparation.job
bt_ray.data.preparation.job._ROWS_PER_SHARD = 200
from pipelines.prepare import main
main()
"""


def command(source: Path, root: Path, cpus: int) -> list[str]:
    return [sys.executable, "-c", PROGRAM, str(source), str(root), f"--cpus={cpus}",
            "--rows-per-row-group=50"]  # fmt: skip


@pytest.mark.cluster
@pytest.mark.parametrize("cpus", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_after_kill_9_the_same_command_continues_to_the_same_bytes(
    tmp_path: Path, cpus: int
) -> None:
    """The whole program, with its cluster if it has one; what was finished is not touched."""
    imagenet_train(tmp_path / "train.tar", classes=40, each=200)
    whole = subprocess.run(
        command(tmp_path / "train.tar", tmp_path / "whole", 0), cwd=ROOT, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    out = tmp_path / "out"
    process = subprocess.Popen(
        command(tmp_path / "train.tar", out, cpus), cwd=ROOT, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.time() + 120
    while len(list(out.glob("_unfinished/shard-*.json"))) < 5 and time.time() < deadline:
        time.sleep(0.002)
    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for member in family:
        member.send_signal(signal.SIGKILL)
    process.wait()
    records = {path.stem for path in out.glob("_unfinished/shard-*.json")}
    assert 5 <= len(records) < 40
    assert not (out / "manifest.json").exists()
    before = {name: (out / f"{name}.parquet").stat() for name in records}
    again = subprocess.run(
        command(tmp_path / "train.tar", out, cpus), cwd=ROOT, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert json.loads(again.stdout)["digest"] == json.loads(whole.stdout)["digest"]
    assert contents(out) == contents(tmp_path / "whole")
    for name, status in before.items():
        now = (out / f"{name}.parquet").stat()
        assert (now.st_ino, now.st_mtime_ns) == (status.st_ino, status.st_mtime_ns)
    assert "8,000 of 8,000 images written" in again.stderr
    assert "images/s" in again.stderr
    assert "Traceback" not in again.stderr
