"""Encoders of timm, of torchvision and of a user's code: kept, exported, registered, loaded."""

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from bt_ray.config import SETTINGS_FILE, Settings, override, to_json
from bt_ray.model.encoder import build_encoder
from bt_ray.model.export import export_encoder
from bt_ray.model.inputs import normalize
from bt_ray.model.pretrained import Pretrained, load_file_of_weights, load_folder
from bt_ray.model.weights import ENCODER, save_weights
from bt_ray.tracking.registry_code import needs_of
from tests.tracking.test_registered_model import model_of, picture

ENCODERS = {
    "timm:vit_tiny_patch16_224": {"model.patch_px": 8},
    "timm:convnext_atto": {"model.patch_px": 2},
    "torchvision:shufflenet_v2_x0_5": {},
    "someones_nets.small:make_encoder": {},
}
KINDS = [
    "timm:vit_tiny_patch16_224",
    "someones_nets.small:make_encoder",
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in ("timm:convnext_atto", "torchvision:shufflenet_v2_x0_5")
    ),
]
"""The same, for tests that take long: a transformer and a user's own in every run of the tests."""
NETS = {
    "someones_nets/small.py": """
from torch import nn
from someones_nets import blocks
from beside_it import WIDTH

def make_encoder(channels: int) -> nn.Module:
    return blocks.stack(channels, WIDTH)
""",
    "someones_nets/blocks.py": """
import scipy
from torch import nn

def stack(channels, width):
    return nn.Sequential(
        nn.Conv2d(channels, width, 3), nn.BatchNorm2d(width), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
""",
    "beside_it.py": "WIDTH = 12\n",
    "unrelated.py": "raise SystemExit('nobody imports this')\n",
}
_LOAD = """
import base64, json, sys
import mlflow, pandas
model = mlflow.pyfunc.load_model(sys.argv[1])
vectors = model.predict(pandas.DataFrame({"image": [base64.b64decode(sys.argv[2])]}))
print(json.dumps(vectors.tolist()))
"""


@pytest.fixture(autouse=True)
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with a package without an `__init__.py`, on this process's path alone."""
    folder = tmp_path / "users"
    for name, text in NETS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    for name in [n for n in sys.modules if n.partition(".")[0] in ("someones_nets", "beside_it")]:
        del sys.modules[name]


def chosen(settings: Settings, name: str, **more: object) -> Settings:
    changes = {"model.encoder": name, "views.image_px": 32, **ENCODERS[name], **more}
    return override(settings, changes)


def kept(settings: Settings, folder: Path) -> Pretrained:
    """An encoder with new weights, written to a folder and loaded from there."""
    torch.manual_seed(3)
    folder.mkdir()
    save_weights(build_encoder(settings), folder / ENCODER)
    (folder / SETTINGS_FILE).write_text(to_json(settings))
    return load_folder(folder)


def levels(channels: int) -> Tensor:
    return torch.randint(0, 256, (2, channels, 32, 32), dtype=torch.uint8)


@torch.no_grad()
@pytest.mark.parametrize("channels", [3, 5])
@pytest.mark.parametrize("name", ENCODERS)
def test_any_encoder_is_kept_loaded_and_exported(
    small_settings: Settings, tmp_path: Path, name: str, channels: int
) -> None:
    settings = chosen(small_settings, name, **{"data.channels": channels})
    pretrained = kept(settings, tmp_path / "kept")
    images = normalize(levels(channels), settings.data)
    expected = pretrained.encoder(images)
    for one in export_encoder(pretrained, tmp_path / "files", ("state_dict", "safetensors")):
        assert one.difference == 0
        opened = load_file_of_weights(one.file, settings)
        assert torch.equal(opened.encoder(images), expected)


@pytest.mark.run
@pytest.mark.parametrize("name", KINDS)
def test_programs_of_any_encoder_compute_what_it_does(
    small_settings: Settings, tmp_path: Path, name: str
) -> None:
    pretrained = kept(chosen(small_settings, name), tmp_path / "kept")
    found = export_encoder(pretrained, tmp_path / "files", ("onnx", "torch_export"))
    assert len(found) == 2


@pytest.mark.run
@pytest.mark.parametrize("name", KINDS)
def test_a_registered_version_brings_all_that_its_encoder_needs(
    small_settings: Settings, tmp_path: Path, name: str
) -> None:
    """A fresh process without the user's folder loads it, and says what this one says."""
    settings = chosen(small_settings, name)
    model = model_of(settings, tmp_path)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", _LOAD, str(model), base64.b64encode(picture()).decode()],
        capture_output=True, text=True, check=False, cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    from bt_ray.data.views.reference import central, decode

    image = np.asarray(central(decode(picture()), 32)).transpose(2, 0, 1)[None].copy()
    pretrained = load_folder(tmp_path / "checkpoint")
    with torch.no_grad():
        expected = pretrained.encoder(normalize(torch.from_numpy(image), settings.data)).numpy()
    vectors = json.loads(done.stdout.splitlines()[-1])
    np.testing.assert_allclose(vectors, expected, rtol=1e-4, atol=1e-5)


def test_a_users_code_is_carried_with_what_it_imports_and_no_more(
    small_settings: Settings, nets: Path
) -> None:
    needs = needs_of(chosen(small_settings, "someones_nets.small:make_encoder").model)
    assert needs.code == (nets / "beside_it.py", nets / "someones_nets")
    assert needs.packages == ("scipy", "torch")


@pytest.mark.parametrize(
    ("name", "packages"),
    [
        ("conv4", ()), ("resnet18", ("torchvision",)), ("timm:convnext_atto", ("timm",)),
        ("torchvision:shufflenet_v2_x0_5", ("torchvision",)),
        ("torchvision.models:resnet18", ("torchvision",)),
    ],
)  # fmt: skip
def test_installed_packages_are_required_and_not_carried(
    small_settings: Settings, name: str, packages: tuple[str, ...]
) -> None:
    needs = needs_of(override(small_settings, {"model.encoder": name}).model)
    assert (needs.packages, needs.code) == (packages, ())
