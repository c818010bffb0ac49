"""Which module may import which (docs/architecture.md)."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WITHOUT_RAY = (
    "bt_ray/ablations/paper",
    "bt_ray/advice/",
    "bt_ray/checkpoints/",
    "bt_ray/config",
    "bt_ray/cpu/",
    "bt_ray/detection/",
    "bt_ray/data/",
    "bt_ray/distributed/",
    "bt_ray/doctor/devices",
    "bt_ray/doctor/examiner",
    "bt_ray/doctor/finding",
    "bt_ray/doctor/images",
    "bt_ray/doctor/judge_",
    "bt_ray/doctor/network",
    "bt_ray/doctor/node",
    "bt_ray/doctor/storage",
    "bt_ray/doctor/tracking",
    "bt_ray/doctor/within",
    "bt_ray/embedding/",
    "bt_ray/errors",
    "bt_ray/evaluation/",
    "bt_ray/figures/",
    "bt_ray/forecast/images",
    "bt_ray/forecast/memory",
    "bt_ray/forecast/network",
    "bt_ray/forecast/overlap",
    "bt_ray/forecast/place",
    "bt_ray/forecast/planner",
    "bt_ray/forecast/rates",
    "bt_ray/forecast/roofline",
    "bt_ray/forecast/speed",
    "bt_ray/forecast/trace",
    "bt_ray/method_presets",
    "bt_ray/methods/",
    "bt_ray/model/",
    "bt_ray/objective/",
    "bt_ray/optim/",
    "bt_ray/precision",
    "bt_ray/presets",
    "bt_ray/report/",
    "bt_ray/segmentation/",
    "bt_ray/storage/",
    "bt_ray/tracking/",
    "bt_ray/training/on_cpu",
    "bt_ray/training/background",
    "bt_ray/training/calendar",
    "bt_ray/training/checkpointer",
    "bt_ray/training/context",
    "bt_ray/training/gauges",
    "bt_ray/training/identity",
    "bt_ray/training/local",
    "bt_ray/training/loop",
    "bt_ray/training/meter",
    "bt_ray/training/quarantine",
    "bt_ray/training/recorder",
    "bt_ray/training/run_folder",
    "bt_ray/training/stop",
    "bt_ray/training/summary",
    "bt_ray/training/watch",
    "bt_ray/view_presets",
)
WITH_RAY = (
    "bt_ray/data/preparation/parallel",
    "bt_ray/data/stream/ingest",
    "bt_ray/embedding/pool",
    "bt_ray/evaluation/features_on_ray",
)
"""Rooms' files that distribute work, where the rest of the room does not."""
WITH_MLFLOW = ("bt_ray/tracking/mlflow", "bt_ray/tracking/registry")
STANDARD_LIBRARY_ONLY = (
    "bt_ray/config",
    "bt_ray/errors",
    "bt_ray/method_presets",
    "bt_ray/presets",
    "bt_ray/view_presets",
)
SOURCES = sorted(
    path.relative_to(ROOT).as_posix()
    for room in ("bt_ray", "pipelines", "tune_spaces")
    for path in (ROOT / room).rglob("*.py")
)


def _imports(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse((ROOT / source).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


@pytest.mark.parametrize("source", SOURCES)
def test_walls(source: str) -> None:
    modules = set(_imports(source))
    roots = {module.split(".")[0] for module in modules}
    if source.startswith(WITHOUT_RAY) and not source.startswith(WITH_RAY):
        assert "ray" not in roots
    if not source.startswith(WITH_MLFLOW):
        assert "mlflow" not in roots
    if source.startswith("bt_ray/"):
        assert not roots & {"pipelines", "tune_spaces", "tests"}
    if source.startswith(STANDARD_LIBRARY_ONLY):
        assert roots <= sys.stdlib_module_names | {"bt_ray"}


FLOORS = (
    ("errors", "json_files", "redaction"),
    ("config", "machine", "ray_internals"),
    (
        "cpu",
        "data/location",
        "data/lock",
        "data/views",
        "method_presets",
        "optim",
        "precision",
        "presets",
        "ray_start",
        "view_presets",
    ),
    ("data/sources", "distributed", "storage"),
    ("data/shards", "model", "objective"),
    ("data/preparation", "data/stream", "figures"),
    ("checkpoints",),
    ("methods",),
    ("tracking",),
    ("evaluation",),
    ("training",),
    ("detection", "segmentation"),
    ("doctor", "forecast", "embedding", "report"),
    ("advice", "tuning"),
    ("ablations",),
    ("comparison",),
)
"""Rooms from the ground up: a room imports from lower floors, and from itself."""
PUBLIC_NAMES = ("bt_ray/__init__.py", "bt_ray/data/batches.py")


def _room(path: str) -> str:
    """`data/shards` of `bt_ray/data/shards/manifest.py`, `model` of `bt_ray/model/twins.py`."""
    parts = path.removeprefix("bt_ray/").removesuffix(".py").split("/")
    return "/".join(parts[:2]) if parts[0] == "data" else parts[0]


@pytest.mark.parametrize("source", [s for s in SOURCES if s.startswith("bt_ray/")])
def test_imports_point_down(source: str) -> None:
    floor = {room: height for height, rooms in enumerate(FLOORS) for room in rooms}
    if source in PUBLIC_NAMES or source.endswith("__init__.py"):
        return
    own = _room(source)
    for module in _imports(source):
        other = _room(module.replace(".", "/"))
        if module.startswith("bt_ray.") and other != own:
            assert floor[other] < floor[own], f"{own} imports {other}"


@pytest.mark.parametrize("room", ["objective", "model", "optim"])
def test_objectives_models_and_optimizers_do_not_know_each_other(room: str) -> None:
    others = {f"bt_ray.{other}" for other in ("objective", "model", "optim") if other != room}
    for source in SOURCES:
        if source.startswith(f"bt_ray/{room}/"):
            assert not any(module.startswith(tuple(others)) for module in _imports(source)), source


def test_a_data_task_needs_no_torch() -> None:
    """Its import would take each of Ray Data's processes longer than a thousand images."""
    code = "import sys, bt_ray.data.stream.ingest; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_shards_are_written_and_read_without_ray() -> None:
    """A small run starts in its own process, which Ray's import would hold up for seconds."""
    code = (
        "import sys, tempfile\n"
        "from bt_ray.data.preparation.prepare import prepare_data\n"
        "from pipelines.prepare import Prepare, prepare\n"
        "prepare(Prepare(source='digits:test', destination=tempfile.mkdtemp()))\n"
        "sys.exit('ray' in sys.modules or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
