"""What the model registry hands out: no pickle, and nothing that was altered since."""

import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch

from bt_ray.checkpoints.checkpoint import save_checkpoint
from bt_ray.config import Settings
from bt_ray.errors import BtRayError, CheckpointError
from bt_ray.evaluation import encoder
from bt_ray.evaluation.encoder import open_encoder
from bt_ray.tracking.mlflow import start_run
from bt_ray.tracking.registry import register_encoder
from tests.states import build_state

pytestmark = pytest.mark.run


@pytest.fixture
def checkpoint(small_settings: Settings, tmp_path: Path) -> Path:
    folder = tmp_path / "small" / "local" / "checkpoint_000000001"
    save_checkpoint(folder, build_state(small_settings, torch.device("cpu")), small_settings)
    return folder


@pytest.fixture
def reference(small_settings: Settings, checkpoint: Path) -> str:
    """A registered version."""
    version = register_encoder(start_run(small_settings)[0], checkpoint, small_settings)
    return f"models:/{small_settings.registered_model}/{version}"


def artifacts(settings: Settings) -> Path:
    """The registered version's folder."""
    [folder] = Path(settings.storage).glob("mlartifacts/models/*/artifacts")
    return folder


def test_a_registered_version_holds_no_pickle(small_settings: Settings, reference: str) -> None:
    """Its code is Python's source, its weights are safetensors."""
    files = [file for file in artifacts(small_settings).rglob("*") if file.is_file()]
    assert {file.suffix for file in files} <= {
        "", ".py", ".json", ".md", ".safetensors", ".yaml", ".txt", ".jinja", ".typed",
    }  # fmt: skip
    for file in files:
        start = file.read_bytes()[:2]
        assert not (start[:1] == b"\x80" and start[1:] <= b"\x05"), f"{file} begins as pickles do"
    pretrained, _ = open_encoder(reference, small_settings)
    assert pretrained.num_features == 256


def test_a_registered_file_that_was_altered_is_named(
    small_settings: Settings, reference: str
) -> None:
    file = artifacts(small_settings) / "artifacts" / "encoder.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"encoder\.safetensors in .* was altered"):
        open_encoder(reference, small_settings)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:-1]), "has .* bytes, and the manifest"),
        (lambda file: file.write_bytes(file.read_bytes()[:-1] + b"\xee"), "was altered"),
        (lambda file: file.unlink(), "is missing"),
        (
            lambda file: (file.unlink(), file.symlink_to("/etc/hostname")),
            "is a link that leads out",
        ),
    ],
)
@pytest.mark.parametrize("name", ["encoder.safetensors", "settings.json"])
def test_fetched_files_are_held_to_the_manifest_beside_them(
    small_settings: Settings,
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[Path], object],
    sentence: str,
    name: str,
) -> None:
    damage(checkpoint / name)
    monkeypatch.setattr("bt_ray.tracking.registry.fetch_encoder", lambda *_: (checkpoint, "an id"))
    with pytest.raises(CheckpointError, match=rf"^The files of models:/x/1 .*{name}.* {sentence}"):
        encoder.open_encoder("models:/x/1", small_settings)


class Hostile(BaseHTTPRequestHandler):
    """A registry whose artifacts claim to lie outside the folder that they are fetched into."""

    def do_GET(self) -> None:
        version = {"name": "x", "version": "1", "run_id": "0" * 32, "source": "mlflow-artifacts:/a",
                   "status": "READY", "current_stage": "None"}  # fmt: skip
        if "model-versions/get-download-uri" in self.path:
            answer: dict[str, object] = {"artifact_uri": "mlflow-artifacts:/a"}
        elif "model-versions" in self.path:
            answer = {"model_version": version}
        elif "/artifacts" in self.path:
            answer = {"files": [{"path": "../../../escaped", "is_dir": False, "file_size": 4}]}
        else:
            answer = {}
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hostile_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Hostile) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
        yield
        server.shutdown()


@pytest.mark.usefixtures("hostile_registry")
def test_an_artifact_that_names_a_path_is_not_fetched(
    small_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "temporary").mkdir()
    with pytest.raises(BtRayError, match="Invalid path"):
        open_encoder("models:/x/1", small_settings)
    assert not list(tmp_path.rglob("escaped"))
