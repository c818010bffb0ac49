"""Where MLflow's records are: the server, or a file beside the runs, which may have been moved."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

from bt_ray.errors import TrackingError
from bt_ray.redaction import without_credentials
from bt_ray.storage.working_copy import is_far

_FILE = "sqlite:///"
_DATABASE, ARTIFACTS = "mlflow.db", "mlartifacts"
_PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Columns of MLflow's tables that say where artifacts lie."""
_LOCK_WAIT_S = 20


def tracking_uri(storage: str, run_folder: Path | None = None) -> str:
    """The server in MLFLOW_TRACKING_URI, or an SQLite file in the folder of all runs.

    A database does not lie in an object store: each run there has a file of its own in its folder.

    Raises: TrackingError if neither names the records of all runs.
    """
    server = os.environ.get("MLFLOW_TRACKING_URI")
    if server:
        return server
    if not is_far(storage):
        return f"{_FILE}{storage}/{_DATABASE}"
    if run_folder is None:
        raise TrackingError(
            f"There is no model registry in {without_credentials(storage)}: without a server each "
            "run there keeps its records for itself. Name a server by MLFLOW_TRACKING_URI."
        )
    return f"{_FILE}{run_folder}/{_DATABASE}"


def is_shared(uri: str, storage: str) -> bool:
    """Whether records at `uri` are those of all runs in the storage, and so is the registry."""
    return not (is_far(storage) and database_file(uri) is not None)


def database_file(uri: str) -> Path | None:
    """The SQLite file that `uri` names; none if it names a server."""
    place = uri.partition("?")[0]
    return Path(place.removeprefix(_FILE)) if place.startswith(_FILE) else None


def recorded_uri(uri: str, run_folder: Path) -> str:
    """What a run's folder notes of its server: no password, and no path that a move would break."""
    file = database_file(uri)
    folder = run_folder.resolve()
    if file is not None and file.parent in (folder, *folder.parents):
        return f"{_FILE}{os.path.relpath(file, run_folder.resolve())}"
    return without_credentials(uri)


def resolve_uri(noted: str, run_folder: Path) -> str:
    """The server that `recorded_uri` noted, with what MLFLOW_TRACKING_URI knows of its password.

    Earlier versions noted the file's whole path: if it is not there, the folder was moved, and
    the file lies above it as before.
    """
    known = os.environ.get("MLFLOW_TRACKING_URI", "")
    if known and without_credentials(known) == noted:
        return known
    file = database_file(noted)
    if file is None:
        return noted
    here = (run_folder.resolve() / file).resolve()
    if not here.is_file():
        above = (parent / file.name for parent in run_folder.resolve().parents)
        here = next((place for place in above if place.is_file()), here)
    return f"{_FILE}{here}"


def follow_moved_artifacts(uri: str) -> None:
    """Has an SQLite file name the artifacts beside it where it names those of its former folder.

    MLflow notes whole paths, and a folder of runs is moved or copied with all that is in it. What
    lies elsewhere, or in another store, is left as it is.
    """
    file = database_file(uri)
    if file is None or not file.is_file() or not (file.parent / ARTIFACTS).is_dir():
        return
    now = f"{file.resolve().parent.as_uri()}/{ARTIFACTS}"
    try:
        with closing(sqlite3.connect(file, timeout=_LOCK_WAIT_S)) as database, database:
            for before in list(_former_places(database, now)):
                for table, column in _PLACES:
                    database.execute(
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                        f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                        (now, len(before) + 1, before, len(before) + 1, f"{before}/"),
                    )
    except sqlite3.Error:
        return  # MLflow has a sentence for a file that is damaged, locked or of another version


def _former_places(database: sqlite3.Connection, now: str) -> Iterator[str]:
    """Folders that experiments name for their artifacts, and whose content lies at `now`."""
    named = database.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall()
    for (place,) in named:
        is_ours = str(place).startswith("file:") and str(place).endswith(f"/{ARTIFACTS}")
        if is_ours and place != now and _lies_at(database, place, now):
            yield place


def _lies_at(database: sqlite3.Connection, before: str, now: str) -> bool:
    """Whether what is recorded below `before` is at `now`, or there is nothing at `before`."""
    below = database.execute(
        "SELECT artifact_uri FROM runs WHERE substr(artifact_uri, 1, ?) = ?",
        (len(before) + 1, f"{before}/"),
    )
    names = [str(uri).removeprefix(before).strip("/").partition("/")[0] for (uri,) in below]
    here = path_of(now)
    return any((here / name).exists() for name in names) or not path_of(before).exists()


def path_of(uri: str) -> Path:
    """The path of a `file:` URI."""
    return Path(unquote(urlsplit(uri).path))
