"""Tells the folders that bt_ray itself wrote, which may lie below a user's images."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bt_ray.data.location import MANIFEST

_MARKS: dict[str, Callable[[dict[str, Any]], bool]] = {
    MANIFEST: lambda tree: is_manifest(tree) or tree.get("kind") == "embeddings",
    "settings.json": lambda tree: {"data", "views", "optimizer"} <= set(tree),
    "mlflow_run.json": lambda tree: "run_id" in tree,
    "sweep.json": lambda tree: True,
    "_unfinished/claim.json": lambda tree: True,
}
"""File → whether its content is what bt_ray writes."""


def is_ours(folder: str, names: set[str]) -> bool:
    """Whether bt_ray wrote a folder of this machine that holds files of these names.

    A name alone decides nothing: the file is read.
    """
    return any(
        file.split("/")[0] in names and (tree := _read(Path(folder, file))) and fits(tree)
        for file, fits in _MARKS.items()
    )


def is_manifest(tree: object) -> bool:
    """Whether this JSON is the manifest of a folder of shards."""
    return (
        isinstance(tree, dict)
        and isinstance(tree.get("schema_version"), int)
        and isinstance(tree.get("shards"), list)
    )


def _read(file: Path) -> dict[str, Any]:
    try:
        tree = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return tree if isinstance(tree, dict) else {}
