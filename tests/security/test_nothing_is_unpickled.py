"""What is read from storage, the registry or a user's file runs no code."""

import ast
import json
import pickle
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from bt_ray.checkpoints.checkpoint import save_checkpoint
from bt_ray.checkpoints.manifest import sha256, write_manifest
from bt_ray.config import Settings, override
from bt_ray.data.sources import open_source
from bt_ray.errors import BtRayError
from bt_ray.evaluation.encoder import open_encoder
from bt_ray.tracking.snapshots import PROBES, read_snapshots
from bt_ray.training.first_weights import find_first_weights
from tests.states import build_state

ROOT = Path(__file__).parents[2]
ROOMS = ("bt_ray", "pipelines", "tune_spaces", "benchmarks")
SOURCES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
UNPICKLERS = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve", "hickle"}
BETWEEN_PROCESSES = "bt_ray/data/preparation/parallel.py"
"""Sends tasks through Ray, to processes that Ray started; they are never stored."""
CATCHES_ITS_ERROR = "bt_ray/model/weights_file.py"
OWN_FILE = "bt_ray/model/export.py"
"""Reads back the program that it has just written."""
NEVER = {
    "eval", "exec", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load",
    "mlflow.pyfunc.load_model",
    "mlflow.pytorch.load_model", "mlflow.sklearn.load_model", "torch.hub.load", "torch.jit.load",
    "pandas.read_pickle", "pd.read_pickle", "tune.Tuner.restore", "Tuner.restore",
    "TorchTrainer.restore", "pickle.load", "pickle.loads", "pickle.Unpickler",
}  # fmt: skip


def _name(node: ast.AST) -> str:
    try:
        return ast.unparse(node)
    except ValueError:
        return ""


def _calls(tree: ast.AST) -> Iterator[tuple[str, dict[str, str]]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            options = {str(k.arg): _name(k.value) for k in node.keywords}
            yield _name(node.func), options


def faults(source: str, text: str) -> list[str]:
    """What in a file's text could run what it reads."""
    tree, found = ast.parse(text), []
    for node in ast.walk(tree):
        names = {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()
        if isinstance(node, ast.ImportFrom):
            names = {node.module or "", *(alias.name for alias in node.names)}
        for name in sorted(names & UNPICKLERS):
            if (source, name) not in (
                (BETWEEN_PROCESSES, "cloudpickle"),
                (CATCHES_ITS_ERROR, "pickle"),
            ):
                found.append(f"imports {name}")
    for name, options in _calls(tree):
        if name in NEVER or name.endswith(
            (".extractall", ".extract", "unpack_archive", ".pyfunc.load_model", ".Tuner.restore")
        ):
            found.append(f"calls {name}")
        if name == "torch.load" and options.get("weights_only") != "True":
            found.append("torch.load without weights_only=True")
        if name in ("np.load", "numpy.load") and options.get("allow_pickle") != "False":
            found.append("np.load without allow_pickle=False")
        if name == "torch.export.load" and source != OWN_FILE:
            found.append("torch.export.load")
        if options.get("shell") == "True":
            found.append(f"{name} with a shell")
        is_from_code = name == "mlflow.pyfunc.log_model" and options.get(
            "python_model", ""
        ).startswith("str(")
        if name.split(".")[-1] == "log_model" and not is_from_code:
            found.append("a model is logged, and not from code")
    return found


@pytest.mark.parametrize("source", [path.relative_to(ROOT).as_posix() for path in SOURCES])
def test_no_source_unpickles(source: str) -> None:
    assert faults(source, (ROOT / source).read_text()) == []


@pytest.mark.parametrize(
    "text",
    [
        "import pickle", "from joblib import load", "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "np.load(f, allow_pickle=True)", "np.load(f)", "eval(x)", "tar.extractall()",
        "mlflow.pyfunc.load_model(u)", "subprocess.run(c, shell=True)", "tune.Tuner.restore(p)",
        "mlflow.pytorch.log_model(m)", "mlflow.pyfunc.log_model(python_model=Model())",
        "import cloudpickle", "torch.export.load(f)",
    ],
)  # fmt: skip
def test_what_would_unpickle_is_seen(text: str) -> None:
    assert len(faults("bt_ray/training/loop.py", text)) == 1


class Trap:
    """What a hostile pickle does when it is loaded."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return exec, ("raise SystemExit('code of the pickle was run')",)


def hostile(kind: str, file: Path) -> None:
    """Writes a pickle to a file, bare or as torch wraps it."""
    if kind == "bare":
        file.write_bytes(pickle.dumps(Trap(), protocol=2))
        return
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Trap(), protocol=2))
        archive.writestr("archive/version", "3\n")


def evaluate(place: Path, settings: Settings) -> None:
    open_encoder(str(place), settings)


def start_from(place: Path, settings: Settings) -> None:
    find_first_weights(override(settings, {"model.start_from": str(place)}))


@pytest.mark.parametrize("read", [evaluate, start_from])
@pytest.mark.parametrize("kind", ["bare", "zip"])
def test_a_forged_checkpoint_runs_no_code(
    small_settings: Settings,
    tmp_path: Path,
    kind: str,
    read: Callable[[Path, Settings], None],
) -> None:
    """Not even one whose sums fit: whoever can write to the storage can make them fit."""
    folder = tmp_path / "small" / "local" / "checkpoint_000000001"
    save_checkpoint(folder, build_state(small_settings, torch.device("cpu")), small_settings)
    hostile(kind, folder / "encoder.safetensors")
    for forged in (False, True):
        if forged:
            names = [file.name for file in folder.iterdir() if file.name != "manifest.json"]
            write_manifest(folder, 1, {name: sha256(folder / name) for name in names})
        with pytest.raises(BtRayError, match=r"encoder\.safetensors"):
            read(folder, small_settings)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
@pytest.mark.parametrize("kind", ["bare", "zip"])
def test_a_file_of_weights_runs_no_code(
    small_settings: Settings, tmp_path: Path, kind: str, suffix: str
) -> None:
    file = tmp_path / f"weights{suffix}"
    hostile(kind, file)
    with pytest.raises(BtRayError, match=f"weights{suffix} cannot be read as a state dict"):
        open_encoder(str(file), small_settings)


def test_a_cut_file_of_weights_is_named(small_settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    save_file({"a": torch.ones(100)}, file)
    whole = file.read_bytes()
    for content in (b"", whole[:5], whole[:40], whole[:-1], b"\xff" + whole[1:]):
        file.write_bytes(content)
        with pytest.raises(BtRayError, match=r"weights\.safetensors cannot be read"):
            open_encoder(str(file), small_settings)


def test_a_snapshot_of_a_probe_runs_no_code(tmp_path: Path) -> None:
    folder = tmp_path / PROBES
    folder.mkdir()
    with (folder / "step-000000001.npz").open("wb") as stream:
        np.savez(stream, eigenvalues=np.array([Trap()], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        read_snapshots(tmp_path)


def test_settings_from_storage_are_values_and_nothing_else(
    small_settings: Settings, tmp_path: Path
) -> None:
    """No name in them is looked up, imported or called: types and keys are checked."""
    folder = tmp_path / "small" / "local" / "checkpoint_000000001"
    save_checkpoint(folder, build_state(small_settings, torch.device("cpu")), small_settings)
    tree = json.loads((folder / "settings.json").read_text())
    for section, key, value in (
        ("model", "encoder", "os.system"),
        ("model", "projector_widths", {"__reduce__": "os.system"}),
        ("model", "_target_", "os.system"),
    ):
        forged = tree | {section: tree[section] | {key: value}}
        (folder / "settings.json").write_text(json.dumps(forged))
        names = [file.name for file in folder.iterdir() if file.name != "manifest.json"]
        write_manifest(folder, 1, {name: sha256(folder / name) for name in names})
        with pytest.raises(BtRayError, match=key):
            open_encoder(str(folder), small_settings)


def test_batches_of_cifar_are_opened_only_if_they_are_the_published_ones(tmp_path: Path) -> None:
    """They are pickles; torchvision compares their sums first."""
    from torchvision.datasets import CIFAR10

    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    for name, _ in [*CIFAR10.train_list, *CIFAR10.test_list, (CIFAR10.meta["filename"], "")]:
        hostile("bare", folder / name)
    with pytest.raises(BtRayError, match="CIFAR10"):
        open_source(f"torchvision:CIFAR10:{tmp_path}:train")


def test_the_oldest_torch_that_is_allowed_loads_weights_safely() -> None:
    """Before 2.6 a file could run code past `weights_only` (CVE-2025-32434)."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    [torch_] = [need for need in project["dependencies"] if need.startswith("torch>=")]
    assert tuple(map(int, torch_.removeprefix("torch>=").split("."))) >= (2, 6)
