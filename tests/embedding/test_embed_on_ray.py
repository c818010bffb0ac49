"""Vectors computed by a pool of actors: the same as here, and gone on with after any death."""

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

from bt_ray.data.preparation.parallel import run_in_actors
from bt_ray.embedding.encoder import Computation
from bt_ray.embedding.pool import build_pool
from bt_ray.errors import DataError, LaunchError
from bt_ray.model.pretrained import Pretrained
from bt_ray.model.weights import save_weights
from tests.data.pictures import encoded, imagenet_train, write_folder
from tests.data.preparation.test_preparation import contents
from tests.embedding.test_embed import new_encoder, write

pytestmark = pytest.mark.ray
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pretrained() -> Pretrained:
    return new_encoder()


def test_the_result_does_not_depend_on_the_number_of_actors(
    cluster: None, pretrained: Pretrained, tmp_path: Path
) -> None:
    """Bad images included; the manifest has the digests of all files."""
    pictures = {f"{i:02d}.jpg": encoded(i) for i in range(40)}
    folder = write_folder(tmp_path / "images", pictures | {"17.jpg": b"a story"})
    here = write(folder, tmp_path / "here", pretrained)
    pool = build_pool(2, "auto", Computation())
    assert pool.words == "by 2 actors, each with a CPU"
    there = write(folder, tmp_path / "there", pretrained, pool.run_all)
    assert there.digest == here.digest
    assert contents(tmp_path / "there") == contents(tmp_path / "here")


def test_an_actor_keeps_what_its_first_task_found(cluster: None, tmp_path: Path) -> None:
    """Six tasks in two processes, none of them this one."""
    folder = str(tmp_path)

    def task(number: int) -> str:
        Path(folder, f"began-{number}-{os.getpid()}").touch()
        deadline = time.time() + 100
        while len({p.name.split("-")[2] for p in Path(folder).iterdir()}) < 2:
            if time.time() > deadline:
                return "alone"
            time.sleep(0.05)
        return str(os.getpid())

    tasks = [partial(task, number) for number in range(6)]
    told = set(run_in_actors(tasks, actors=2, num_cpus=1))
    assert len(told) == 2
    assert not told & {"alone", str(os.getpid())}
    assert list(run_in_actors([], actors=2, num_cpus=1)) == []


def test_a_fault_is_a_sentence_from_far_away(
    cluster: None, pretrained: Pretrained, tmp_path: Path
) -> None:
    folder = write_folder(tmp_path / "images", {"a.jpg": encoded(0), "b.jpg": encoded(1)})

    def gone(tasks: object) -> object:
        (tmp_path / "images" / "b.jpg").unlink()
        return run_in_actors(tasks, actors=1, num_cpus=1)  # type: ignore[arg-type]

    with pytest.raises(DataError, match=r"cannot be read any more .*b\.jpg"):
        write(folder, tmp_path / "out", pretrained, gone)  # type: ignore[arg-type]


def test_gpus_that_are_not_there_are_not_waited_for(cluster: None) -> None:
    with pytest.raises(LaunchError, match="the cluster has 0 GPUs"):
        build_pool(2, "gpu", Computation())


@pytest.mark.cluster
def test_after_kill_9_the_same_command_continues_to_the_same_bytes(
    pretrained: Pretrained, tmp_path: Path
) -> None:
    """The whole program with its cluster; what was finished is not touched."""
    imagenet_train(tmp_path / "train.tar", classes=20, each=200)
    weights = tmp_path / "encoder.safetensors"
    save_weights(pretrained.encoder, weights)

    def command(out: Path, workers: int) -> list[str]:
        return [
            sys.executable, "-m", "pipelines.embed", str(tmp_path / "train.tar"), str(out),
            f"--model={weights}", "--architecture=conv4", "--image-px=8", "--rows-per-file=100",
            f"--workers={workers}",
        ]  # fmt: skip

    out = tmp_path / "out"
    process = subprocess.Popen(
        command(out, 2), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.time() + 120
    while len(list(out.glob("_unfinished/part-*.json"))) < 3 and time.time() < deadline:
        time.sleep(0.002)
    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for member in family:
        member.send_signal(signal.SIGKILL)
    process.wait()
    records = {path.stem for path in out.glob("_unfinished/part-*.json")}
    assert 3 <= len(records) < 40
    assert not (out / "manifest.json").exists()
    before = {name: (out / f"{name}.parquet").stat() for name in records}
    again, whole = (
        subprocess.run(
            command(folder, workers), cwd=ROOT, capture_output=True, text=True, check=True
        )
        for folder, workers in ((out, 2), (tmp_path / "whole", 0))
    )
    assert json.loads(again.stdout)["digest"] == json.loads(whole.stdout)["digest"]
    assert contents(out) == contents(tmp_path / "whole")
    for name, status in before.items():
        now = (out / f"{name}.parquet").stat()
        assert (now.st_ino, now.st_mtime_ns) == (status.st_ino, status.st_mtime_ns)
    assert "4,000 of 4,000 images embedded" in again.stderr
    assert "Traceback" not in again.stderr
