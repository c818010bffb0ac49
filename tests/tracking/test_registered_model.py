"""The registered model loads where it is asked to: with its requirements, and nothing else."""

import base64
import io
import json
import os
import subprocess
import sys
import time
import urllib.request
import venv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.ray_nodes import free_ports
from bt_ray.config import SETTINGS_FILE, Settings, override, to_json
from bt_ray.data.views.raster import central_view
from bt_ray.model.encoder import build_encoder
from bt_ray.model.weights import ENCODER, save_weights
from bt_ray.presets import preset
from bt_ray.tracking import registry_files
from bt_ray.tracking.mlflow import start_run
from bt_ray.tracking.registry import fetch_encoder, register_encoder


def model_of(settings: Settings, tmp_path: Path) -> Path:
    """A registered model's files, downloaded."""
    torch.manual_seed(0)
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    save_weights(build_encoder(settings), checkpoint / ENCODER)
    (checkpoint / SETTINGS_FILE).write_text(to_json(settings))
    run, _ = start_run(settings)
    version = register_encoder(run, checkpoint, settings)
    reference = f"models:/{settings.registered_model}/{version}"
    folder, _ = fetch_encoder(reference, run.uri, tmp_path / "model")
    return folder.parent


def picture() -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(noise).save(encoded, "PNG")
    return encoded.getvalue()


def test_requirements_are_few_and_installable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels of local versions, such as +cpu, stand in no package index."""
    monkeypatch.setattr(registry_files, "version", lambda name: "1.2.3+cu126")
    small = registry_files.requirements(preset("digits"))
    assert set(small) == {
        f"{name}==1.2.3" for name in ("mlflow", "torch", "safetensors", "pillow", "numpy", "pandas")
    }
    resnet = override(preset("digits"), {"model.encoder": "resnet18"})
    assert set(registry_files.requirements(resnet)) - set(small) == {"torchvision==1.2.3"}
    grey = override(preset("digits"), {"data.channels": 1})
    names = ("imagecodecs", "opencv-python-headless", "pydicom", "tifffile")
    assert set(registry_files.requirements(grey)) - set(small) == {f"{n}==1.2.3" for n in names}


def test_the_example_of_an_input_is_an_image_of_the_encoders() -> None:
    settings = override(preset("digits"), {"data.channels": 5, "data.bit_depth": 16})
    [content] = registry_files._example(settings)["image"]
    assert (central_view(content, settings) == 32768).all()


_WITHOUT = """
import base64, importlib.metadata as md, json, re, sys
from importlib.machinery import PathFinder
from packaging.requirements import Requirement

def plain(name):
    return re.sub("[-_.]+", "-", name).lower()

def closure(names):
    found, left = set(), list(names)
    while left:
        requirement = Requirement(left.pop())
        if plain(requirement.name) in found:
            continue
        found.add(plain(requirement.name))
        try:
            needed = md.requires(requirement.name) or []
        except md.PackageNotFoundError:
            continue
        markers = {line: Requirement(line).marker for line in needed}
        left += [line for line, m in markers.items() if m is None or m.evaluate({"extra": ""})]
    return found

model = sys.argv[1]
allowed = closure(open(model + "/requirements.txt").read().split())
owners = md.packages_distributions()

class Fresh(PathFinder):
    "Finds nothing of packages that an environment of the requirements lacks."
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        root = name.partition(".")[0]
        theirs = {plain(owner) for owner in owners.get(root, ())}
        is_lacking = root != "bt_ray" and theirs and not theirs & allowed
        return None if is_lacking else super().find_spec(name, path, target)

assert {"torch", "mlflow", "numpy"} <= allowed
assert not {"opencv-python-headless", "ray", "simplejpeg"} & allowed
sys.meta_path[sys.meta_path.index(PathFinder)] = Fresh
import mlflow, pandas
image = base64.b64decode(sys.argv[2])
encoder = mlflow.pyfunc.load_model(model)
vectors = encoder.predict(pandas.DataFrame({"image": [image, image]}))
import bt_ray
assert bt_ray.__file__.startswith(model), bt_ray.__file__
print(json.dumps(vectors.tolist()))
"""


def expected(model: Path) -> np.ndarray[Any, Any]:
    """What the encoder says in this process."""
    import mlflow
    import pandas as pd

    loaded = mlflow.pyfunc.load_model(str(model))
    return np.asarray(loaded.predict(pd.DataFrame({"image": [picture()]})))


@pytest.mark.parametrize("encoder", ["conv4", pytest.param("resnet18", marks=pytest.mark.run)])
def test_it_loads_without_whatever_it_does_not_require(
    small_settings: Settings, encoder: str, tmp_path: Path
) -> None:
    settings = override(small_settings, {"model.encoder": encoder, "model.stem": "cifar"})
    model = model_of(settings, tmp_path)
    image = base64.b64encode(picture()).decode()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT, str(model), image],
        capture_output=True, text=True, check=False, cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    vectors = json.loads(done.stdout.splitlines()[-1])
    np.testing.assert_allclose(vectors, np.repeat(expected(model), 2, axis=0), atol=1e-5)


def test_an_input_example_is_kept_and_a_bad_image_is_a_bad_request(
    small_settings: Settings, tmp_path: Path
) -> None:
    import mlflow
    import pandas as pd
    from mlflow.exceptions import MlflowException

    model = model_of(small_settings, tmp_path)
    loaded = mlflow.pyfunc.load_model(str(model))
    assert loaded.input_example["image"][0].startswith(b"\x89PNG")
    assert loaded.predict(loaded.input_example).shape == (1, 256)
    with pytest.raises(MlflowException, match="Image 1 cannot be decoded"):
        loaded.predict(pd.DataFrame({"image": [picture(), b"no image"]}))


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_it_is_served_from_a_fresh_environment(small_settings: Settings, tmp_path: Path) -> None:
    """Made of its requirements.txt alone: gigabytes, as torch from a package index brings CUDA."""
    model = model_of(small_settings, tmp_path)
    venv.create(tmp_path / "fresh", with_pip=True)
    binaries = tmp_path / "fresh" / "bin"
    needed = str(model / "requirements.txt")
    subprocess.run([str(binaries / "pip"), "install", "-q", "-r", needed], check=True)
    serve_and_ask(binaries, model)


def serve_and_ask(binaries: Path, model: Path) -> None:
    """Has `mlflow models serve` of an environment answer requests of every form."""
    (port,) = free_ports(1)
    environment = {"PATH": f"{binaries}:/usr/bin:/bin", "HOME": str(model)}
    server = subprocess.Popen(
        [str(binaries / "mlflow"), "models", "serve", "-m", str(model), "--env-manager", "local",
         "--host", "127.0.0.1", "--port", str(port), "--workers", "1"],
        cwd=model, env=environment, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        _wait_for(port)
        text = base64.b64encode(picture()).decode()
        for body in (
            {"dataframe_split": {"columns": ["image"], "data": [[text]]}},
            {"dataframe_records": [{"image": text}]},
            {"inputs": {"image": [text]}},
        ):
            vectors = _ask(port, body)["predictions"]
            np.testing.assert_allclose(vectors, expected(model), atol=1e-5)
    finally:
        os.killpg(server.pid, 15)
        server.wait()


def _wait_for(port: int, tries: int = 240) -> None:
    for _ in range(tries):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=2).close()
            return
        except OSError:
            time.sleep(0.5)


def _ask(port: int, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        found: dict[str, Any] = json.loads(answer.read())
    return found


@pytest.mark.cluster
def test_it_is_served_over_http(small_settings: Settings, tmp_path: Path) -> None:
    """From this environment, which has more than it needs."""
    serve_and_ask(Path(sys.executable).parent, model_of(small_settings, tmp_path))
