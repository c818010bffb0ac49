"""What tests share: real shards, small settings, where the shared images are."""

import os
import shutil
import sys
import zipfile
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from bt_ray.config import Settings, override
from bt_ray.data.preparation.write import write_shards
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.sources import open_source
from bt_ray.presets import preset
from tests.gpu.branch import as_on_cuda, is_wanted

os.environ.setdefault("COLUMNS", "200")  # whatever terminal the tests are run in

SHARED = Path(os.environ.get("BT_RAY_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without a GPU, what needs one says so."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a GPU with CUDA"))


@pytest.fixture(autouse=True)
def _alike_in_any_order() -> None:
    """A test before it neither has drawn random numbers nor has left it more threads."""
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _branch() -> Iterator[None]:
    """The branch for CUDA where it is wanted (`make test-cuda-branch`)."""
    with as_on_cuda() if is_wanted() else nullcontext():
        yield


@pytest.fixture(autouse=True)
def _no_tracking_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test's own storage decides where its runs are recorded."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    yield
    if "mlflow" in sys.modules:
        sys.modules["mlflow"].set_tracking_uri(None)


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """A Ray cluster of four logical CPUs; its processes serve one test after the other."""
    import ray

    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def digits_shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    root = tmp_path_factory.mktemp("digits") / "train"
    return write_shards(open_source("digits"), str(root), rows_per_row_group=64)


@pytest.fixture(scope="session")
def digits_test_shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    root = tmp_path_factory.mktemp("digits") / "test"
    return write_shards(open_source("digits:test"), str(root), rows_per_row_group=64)


@pytest.fixture(scope="session")
def mlflow_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow store without runs; making its tables takes longer than a small run."""
    from mlflow import MlflowClient

    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def small_settings(
    digits_shards: ShardSet, digits_test_shards: ShardSet, mlflow_database: Path, tmp_path: Path
) -> Settings:
    """A run of seconds: 360 digits, two steps an epoch."""
    shutil.copy(mlflow_database, tmp_path)
    return _small(tmp_path, digits_test_shards, digits_shards)


@pytest.fixture(scope="module")
def shared_settings(
    digits_shards: ShardSet,
    digits_test_shards: ShardSet,
    mlflow_database: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Settings:
    """The same, for runs that several tests of a module look at."""
    storage = tmp_path_factory.mktemp("runs")
    shutil.copy(mlflow_database, storage)
    return _small(storage, digits_test_shards, digits_shards)


def _small(storage: Path, train: ShardSet, test: ShardSet) -> Settings:
    return override(
        preset("digits"),
        {
            "name": "small",
            "storage": str(storage),
            "data.train": train.root,
            "data.test": test.root,
            "data.global_batch": 128,
            "views.image_px": 8,
            "model.projector_widths": [64, 64],
            "schedule.epochs": 3,
            "schedule.warmup_epochs": 1,
            "training.precision": "fp32",  # alike on any CPU
            "training.log_every_steps": 1,
            "training.probe_every_epochs": 3,
            "training.checkpoint_every_epochs": 0.5,
            "scaling.workers": 1,
            "scaling.threads_per_worker": 1,
            "probe.bank_images": 256,
            "probe.query_images": 128,
        },
    )


def shared_zip(name: str) -> zipfile.ZipFile:
    """An archive of real images; the test is skipped where there is none."""
    path = SHARED / name
    if not path.is_file():
        pytest.skip(f"needs {name} in {SHARED}; set BT_RAY_TEST_DATA to its folder")
    return zipfile.ZipFile(path)
