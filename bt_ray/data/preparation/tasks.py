"""Runs work on parts of a source; finished tasks are recorded, so that a restart skips them."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from bt_ray.data.location import locate, public_name, write_whole
from bt_ray.data.preparation.claim import UNFINISHED, unwritable
from bt_ray.data.sources import Source

Record = dict[str, Any]
Task = Callable[[], str]
RunAll = Callable[[Sequence[Task]], Iterator[str]]
OnProgress = Callable[[str, int, int], None]
"""Called with a phase, the images that it has done, and those that it has in all."""
Work = Callable[[str, Source], Record]
"""The work of a task, from its name and its part of the source to the facts to record."""


def one_after_the_other(tasks: Sequence[Task]) -> Iterator[str]:
    """Runs the tasks in this process."""
    return (task() for task in tasks)


@dataclass(frozen=True)
class Tasks:
    """How the tasks of a preparation run, and which of them are finished.

    Args:
      root: the folder that is being prepared.
      records: records of finished tasks, by the tasks' names.
      run_all: runs tasks, in this process or others, in any order.
      on_progress: called with the phase, the number of images done, and the number of all.
    """

    root: str
    records: Mapping[str, Record]
    run_all: RunAll
    on_progress: OnProgress

    def run(self, phase: str, work: Work, parts: Mapping[str, Source]) -> list[Record]:
        """The records of the work on all parts, in order; finished parts are not done again."""
        total = sum(map(len, parts.values()))
        done = {
            name: self.records[name]
            for name, part in parts.items()
            if self.records.get(name, {}).get("entries") == digest_of(part)
        }
        num_done = sum(record["num_images"] for record in done.values())
        self.on_progress(phase, num_done, total)
        left = [
            partial(_do, self.root, name, work, part)
            for name, part in parts.items()
            if name not in done
        ]
        for text in self.run_all(left):
            record = json.loads(text)
            done[record["name"]] = record
            num_done += record["num_images"]
            self.on_progress(phase, num_done, total)
        return [done[name] for name in parts]


def digest_of(part: Source) -> str:
    """SHA-256 of the part's sample ids, in order."""
    names = "\n".join(part.entries["sample_id"].to_pylist())
    return hashlib.sha256(names.encode()).hexdigest()


def _do(root: str, name: str, work: Work, part: Source) -> str:
    """Does the work and writes its record, so that a restart skips it."""
    record = {"name": name, "entries": digest_of(part), "num_images": len(part)}
    filesystem, path = locate(root)
    try:
        text = json.dumps(record | work(name, part))
        write_whole(filesystem, f"{path}/{UNFINISHED}/{name}.json", text.encode())
    except OSError as error:
        raise unwritable(public_name(root), error) from error
    return text
