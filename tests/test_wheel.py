"""The wheel, installed in a fresh environment: the commands run outside the checkout."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from bt_ray import __version__
from tests.pipelines.ours import foreign_lines

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[1]
PACKAGES = ("bt_ray", "pipelines", "tune_spaces")


def run(*arguments: str | Path, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        arguments, cwd=cwd, env=environment | {"COLUMNS": "200"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the sources: a checkout keeps what an earlier build left in it."""
    copy = tmp_path_factory.mktemp("wheel")
    for package in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, copy / package, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", "dist", ".", cwd=copy)
    return copy / "dist" / f"bt_ray-{__version__}-py3-none-any.whl"


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment with this wheel and, of ours, nothing but the libraries."""
    root = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", root, cwd=root)
    programs = root / "bin"
    run(sys.executable, "-m", "pip", "--python", programs / "python", "install", "--no-deps",
        "--no-index", wheel, cwd=root)  # fmt: skip
    [site_packages] = root.glob("lib/python*/site-packages")
    # A .pth file in a folder that a .pth file names is not read: the checkout stays unknown.
    (site_packages / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    return programs


def test_all_files_of_the_packages_are_in_the_wheel(wheel: Path) -> None:
    files = {
        file.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for file in (ROOT / package).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert packed == files
    assert {"bt_ray/py.typed", "bt_ray/report/page.html.jinja"} < packed


def test_the_packages_are_found_where_they_are_installed(environment: Path, tmp_path: Path) -> None:
    code = (
        "from importlib.util import find_spec\n"
        f"print(*(find_spec(name).origin for name in {PACKAGES}), sep='\\n')\n"
        "from bt_ray.tuning.space import load_space\n"
        "print(load_space('joint').name)"
    )
    *files, space = run(environment / "python", "-c", code, cwd=tmp_path).stdout.splitlines()
    assert all(Path(file).is_relative_to(environment.parent) for file in files)
    assert (len(files), space) == (3, "joint")


def test_the_demo_runs_and_its_encoder_is_loaded(environment: Path, tmp_path: Path) -> None:
    assert (
        run(environment / "bt-ray", "--version", cwd=tmp_path).stdout == f"bt-ray {__version__}\n"
    )
    done = run(
        environment / "bt-ray", "demo", "--schedule.epochs", "2", "--schedule.warmup-epochs", "1",
        "--scaling.workers", "0", cwd=tmp_path,
    )  # fmt: skip
    record = json.loads(done.stdout)
    assert foreign_lines(done.stderr) == []
    assert record["steps"] == 10
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    code = (
        "import mlflow\n"
        f"mlflow.set_tracking_uri({record['paths']['mlflow']!r})\n"
        f"print(mlflow.pyfunc.load_model('models:/{record['model_version']}').metadata.run_id)"
    )
    loaded = run(environment / "python", "-c", code, cwd=tmp_path)
    assert loaded.stdout.strip() == record["run_id"]
