"""Small JSON files, and files of JSON lines, that a kill or a full disk may have cut."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_json(file: Path, tree: Any) -> None:
    """Writes `tree` so that the file holds it whole, or what it held before, even after a kill."""
    fresh = file.with_name(f"{file.name}.new")
    with fresh.open("w") as stream:
        stream.write(json.dumps(tree, indent=2))
        stream.flush()
        os.fsync(stream.fileno())
    fresh.replace(file)


def read_json(file: Path) -> dict[str, Any] | None:
    """The object in a file; none if there is no file, or it is empty, cut or of another kind."""
    try:
        tree = json.loads(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return tree if isinstance(tree, dict) else None


def append_line(file: Path, record: Mapping[str, Any]) -> None:
    """Appends one line of JSON, visible at once; what was cut before it becomes a line of its own.

    So a torn line costs itself alone.
    """
    with file.open("ab") as stream:
        torn = stream.tell() > 0 and not _ends_a_line(file)
        stream.write(b"\n" * torn + json.dumps(record).encode() + b"\n")


def read_lines(file: Path) -> list[dict[str, Any]]:
    """The objects of a file of lines, without those that were cut; empty if there is no file."""
    lines = file.read_bytes().split(b"\n") if file.is_file() else []
    return [record for line in lines if (record := read_line(line)) is not None]


def count_cut_lines(file: Path) -> int:
    """How many lines hold something, and no object: they were cut."""
    lines = file.read_bytes().split(b"\n") if file.is_file() else []
    return sum(bool(line.strip()) and read_line(line) is None for line in lines)


def read_line(line: bytes) -> dict[str, Any] | None:
    """The object that a line holds; none if the line is empty, or was cut."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _ends_a_line(file: Path) -> bool:
    with file.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read(1) == b"\n"
