"""Time that training loses by a checkpoint: `python -m benchmarks.checkpoints --json`.

Of the paper's model, ResNet-50 with a projector 8192-8192-8192, and LARS's momenta: 1.4 GB. The
plain way writes the files with the library, reads them again to hash them and copies the folder
before the next step begins. A run copies the state to memory, and a thread does the rest: how long
that takes is told, too, as the next checkpoint would wait for it.
"""

import hashlib
import shutil
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import cast

import torch
import tyro
from rich.table import Table
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmarks.training import describe_machine
from bt_ray.checkpoints.checkpoint import verify_checkpoint
from bt_ray.checkpoints.draft import draft_checkpoint
from bt_ray.checkpoints.host_copies import HostCopies
from bt_ray.checkpoints.state import TrainingState
from bt_ray.config import Settings
from bt_ray.errors import SettingsError
from bt_ray.methods.barlow_twins import BarlowTwinsLearner
from bt_ray.presets import preset
from bt_ray.training.background import begin_beside
from bt_ray.training.loop import begin
from pipelines.terminal import console, finish, guarded


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Seconds that a step waits for a checkpoint, both ways in turn."""

    repeats: int = 3
    """Checkpoints of each way, after one of each that is not counted."""
    folder: Path | None = None
    """Where they are written; none: the folder for temporary files."""
    json: bool = False
    """Print one line of JSON on stdout."""

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise SettingsError(f"repeats={self.repeats} must be at least 1.")


def main() -> None:
    """Parses the command line, lets both ways take turns, prints what each cost."""
    order = guarded(lambda: tyro.cli(Benchmark, prog="python -m benchmarks.checkpoints"))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    settings = preset("imagenet_300")
    state, copies = state_of(settings, device), HostCopies()
    seconds: dict[str, list[float]] = {"plain": [], "run": [], "thread": []}
    num_bytes = 0
    for turn in range(order.repeats + 1):
        with tempfile.TemporaryDirectory(dir=order.folder) as place:
            plain, ours = Path(place) / "plain", Path(place) / "run"
            began = time.perf_counter()
            save_plainly(state, plain)
            waited = [time.perf_counter() - began]
            began = time.perf_counter()
            draft = draft_checkpoint(state, settings, copies)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            waited.append(time.perf_counter() - began)
            began = time.perf_counter()
            begin_beside(partial(draft.write, ours), "checkpoint").result()
            waited.append(time.perf_counter() - began)
            verify_checkpoint(ours)
            num_bytes = sum(file.stat().st_size for file in ours.iterdir())
        if turn > 0:  # the first turn makes the buffers
            for name, value in zip(seconds, waited, strict=True):
                seconds[name].append(value)
    report(order, seconds, num_bytes, device)


def state_of(settings: Settings, device: torch.device) -> TrainingState[nn.Module]:
    """The state of a run after its first step, as far as a checkpoint goes."""
    state = begin(BarlowTwinsLearner(settings, device, steps_per_epoch=1), settings, device)
    for parameter in state.module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    state.optimizer.step()
    state.optimizer.zero_grad()
    return state


def save_plainly(state: TrainingState[nn.Module], folder: Path) -> None:
    """The tensors written by safetensors, hashed by reading them again, and copied."""
    written = folder / "written"
    written.mkdir(parents=True)
    parts = {name: part.state_dict() for name, part in state.module.named_children()}
    momenta = cast(dict[int, dict[str, Tensor]], state.optimizer.state_dict()["state"])
    parts["optimizer"] = {f"{i}.{n}": v for i, vs in momenta.items() for n, v in vs.items()}
    for name, tensors in parts.items():
        file = written / f"{name}.safetensors"
        save_file({n: tensor.contiguous() for n, tensor in tensors.items()}, file)
        with file.open("rb") as stream:
            hashlib.file_digest(stream, "sha256").hexdigest()
    shutil.copytree(written, folder / "kept")


def report(
    order: Benchmark, seconds: dict[str, list[float]], num_bytes: int, device: torch.device
) -> None:
    """A table for people, a line of JSON for programs."""
    typical = {name: median(values) for name, values in seconds.items()}
    table = Table("", "s", title=f"A checkpoint of {num_bytes / 1e9:.2f} GB on {device.type}")
    for words, name in (
        ("training waits, the plain way", "plain"),
        ("training waits, in a run", "run"),
        ("the thread writes and hashes", "thread"),
    ):
        table.add_row(words, f"{typical[name]:.2f}")
    console.print(table)
    if order.json:
        finish(
            {
                "name": "checkpoints",
                "ratio": round(typical["plain"] / typical["run"], 2),
                "seconds": {name: round(value, 3) for name, value in typical.items()},
                "most_seconds": {name: round(max(values), 3) for name, values in seconds.items()},
                "bytes": num_bytes,
                "device": str(device),
                "repeats": order.repeats,
            }
            | describe_machine()
        )


if __name__ == "__main__":
    main()
