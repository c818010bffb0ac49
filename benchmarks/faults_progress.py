"""How far a campaign of kills has come."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bt_ray.json_files import read_json, write_json


@dataclass
class Progress:
    """What a campaign has done so far; `file` keeps it."""

    file: Path
    key: str
    kills: int = 0
    draws: int = 0
    """Goes that were made, also those that ended before their kill was due."""
    runs: int = 0
    hangs: int = 0
    wrong: int = 0
    """Goes that failed, and finished runs with other weights."""
    by_phase: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, file: Path, key: str) -> "Progress":
        """What the file keeps, if it is of the same campaign; else nothing done."""
        kept = read_json(file) or {}
        if kept.pop("key", None) != key:
            return cls(file, key)
        return cls(file, key, **kept)

    def write(self) -> None:
        """Keeps it."""
        write_json(self.file, self.record() | {"key": self.key})

    def record(self) -> dict[str, Any]:
        """For programs."""
        hidden = ("file", "key")
        return {name: value for name, value in vars(self).items() if name not in hidden}
