"""What came of faults, and a file that keeps it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from bt_ray.json_files import read_json, write_json


@dataclass(frozen=True)
class Result:
    """What came of a fault."""

    as_promised: bool
    outcome: str
    """`recovered`, `stopped with a sentence`, or `failed: …`."""
    sentence: str | None = None
    at_step: int = 0
    steps_lost: int = 0
    """Steps that were taken again."""
    steps_allowed: float = 0
    """The most that may be lost: the interval between checkpoints, and what is done while one is
    being kept."""
    next_step_s: float | None = None
    """From the fault until the next step that the run kept, outage included."""
    outage_s: float = 0.0
    rate_before: float = 0.0
    """Steps/s, by the median step."""
    rate_after: float = 0.0
    rate_ratio: float = 0.0
    """The rate after the fault over the one before."""
    weights_equal: bool = False
    """Whether all tensors of the last checkpoint, and the digest of the data, are bit for bit
    those of the undisturbed run."""


class Results:
    """The results so far, in a file, by name; of one seed and one state of the code."""

    def __init__(self, file: Path, key: str) -> None:
        self._file, self._key = file, key
        kept = read_json(file) or {}
        self.by_name: dict[str, dict[str, Any]] = kept["faults"] if kept.get("key") == key else {}

    def add(self, name: str, result: Result) -> None:
        """Keeps a result."""
        self.by_name[name] = asdict(result)
        write_json(self._file, {"key": self._key, "faults": self.by_name})


def whole(found: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """Every fault by name, and `ratio`, the share that came out as promised.

    One that is missing counts as failed.
    """
    missing = asdict(Result(False, "failed: missing"))
    faults = {name: dict(found.get(name, missing)) for name in names}
    kept = sum(bool(result["as_promised"]) for result in faults.values())
    return {"ratio": kept / len(faults), "faults": faults}


def code_digest() -> str:
    """Sixteen digits that tell one state of the code that is tested, and tests, from another."""
    root = Path(__file__).parents[1]
    rooms = ("bt_ray/**/*.py", "pipelines/*.py", "benchmarks/faults*.py", "benchmarks/emulated*.py")
    files = sorted(file for room in rooms for file in root.glob(room))
    return sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
