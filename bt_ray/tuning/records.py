"""What came of each trial: a JSON file for each, written when the trial has ended."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from bt_ray.json_files import read_json, write_json

State = Literal["finished", "pruned", "diverged", "failed"]
"""How a trial ended: at its last step; earlier, as the search gave it up; with a loss or score that
is not finite; or with an error."""


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """One trial that has ended.

    `params`: what the search drew; `changes`: the settings that follow from it; `score`: the last
    one, if there is any; `scores`: epoch → score on the way; `seconds`: duration of its last start.
    """

    number: int
    name: str
    params: dict[str, Any]
    changes: dict[str, Any]
    state: State
    score: float | None = None
    scores: dict[float, float] = field(default_factory=dict)
    steps: int = 0
    epochs: float = 0.0
    seconds: float = 0.0
    reason: str | None = None
    """Why it failed or diverged, in a sentence."""
    run_id: str | None = None
    """Of its MLflow run."""
    needed_bytes: int | None = None
    """Of one that was not begun since it does not fit into memory: what its workers would need."""


class Records:
    """The records of a sweep, which have `folder` to themselves."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, record: TrialRecord) -> None:
        """Writes the record; if the process is killed meanwhile, there is no record yet."""
        self._folder.mkdir(parents=True, exist_ok=True)
        write_json(self._file(record.number), asdict(record))

    def read(self, number: int) -> TrialRecord | None:
        """The record of a trial; none if it has not ended, or its file is empty or cut."""
        return _from_tree(read_json(self._file(number)))

    def __iter__(self) -> Iterator[TrialRecord]:
        """All records, by number."""
        for file in sorted(self._folder.glob("*.json")):
            if (record := _from_tree(read_json(file))) is not None:
                yield record

    def set_aside(self, number: int) -> None:
        """Renames the record of a trial that is to be run again."""
        old = self._file(number)
        if old.is_file():
            old.rename(old.with_suffix(".failed"))

    def _file(self, number: int) -> Path:
        return self._folder / f"{number:03d}.json"


def _from_tree(tree: Mapping[str, Any] | None) -> TrialRecord | None:
    if tree is None:
        return None
    scores = {float(epoch): score for epoch, score in tree["scores"].items()}
    return TrialRecord(**{**tree, "scores": scores})
