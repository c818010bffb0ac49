"""MLflow's records in a storage that was moved or copied: they name the place that it had before.

MLflow keeps absolute paths, and has no call to change them. So its database in the storage is told,
by plain SQL, where the artifacts beside it lie now.
"""

import logging
import sqlite3
from contextlib import closing
from pathlib import Path

_log = logging.getLogger(__name__)

DATABASE, ARTIFACTS = "mlflow.db", "mlartifacts"
_SCHEME = "sqlite:///"
_PATHS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Tables of MLflow and their columns of paths."""


def follow_storage(storage: Path) -> None:
    """Has the records in the storage's database name the artifacts beside it.

    Nothing changes while those lie where the records say, and none lie here. If the database cannot
    be changed, a sentence says what to do.
    """
    database, here = storage / DATABASE, storage / ARTIFACTS
    if not database.is_file():
        return
    try:
        with closing(sqlite3.connect(database)) as connection, connection:
            for there in _other_places(connection, here):
                if here.is_dir() or not Path(there.removeprefix("file://")).is_dir():
                    _rename(connection, there, here.as_uri())
                    _log.warning("MLflow's artifacts were in %s, and are in %s now.", there, here)
    except sqlite3.Error as error:
        _log.warning(
            "MLflow's records in %s may name artifacts where the storage was before (%s): put a "
            "link to %s there, or set MLFLOW_TRACKING_URI.", database, error, here,
        )  # fmt: skip


def _other_places(connection: sqlite3.Connection, here: Path) -> list[str]:
    """Folders of artifacts that experiments of ours name, but for the one beside the database."""
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'experiments'").fetchall():
        return []
    rows = connection.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall()
    places = [str(place) for (place,) in rows]
    return [p for p in places if p.endswith(f"/{ARTIFACTS}") and p != here.as_uri()]


def _rename(connection: sqlite3.Connection, there: str, here: str) -> None:
    known = {
        (table, column)
        for table, _ in _PATHS
        for (column,) in connection.execute("SELECT name FROM pragma_table_info(?)", (table,))
    }
    for table, column in _PATHS:
        if (table, column) in known:
            connection.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                (here, len(there) + 1, there, len(there) + 1, f"{there}/"),
            )


def current_uri(uri: str, run_id: str, run_folder: Path) -> str:
    """Where the records of a run are, which its folder says were at `uri`.

    A database that was moved or copied with the run's folder is the one that knows the run.
    """
    if not uri.startswith(_SCHEME):
        return uri
    for above in run_folder.resolve().parents:
        if (above / DATABASE).is_file() and _knows(above / DATABASE, run_id):
            follow_storage(above)
            return f"{_SCHEME}{above / DATABASE}"
    return uri


def _knows(database: Path, run_id: str) -> bool:
    try:
        with closing(sqlite3.connect(database)) as connection:
            found = connection.execute("SELECT 1 FROM runs WHERE run_uuid = ?", (run_id,))
            return found.fetchone() is not None
    except sqlite3.Error:
        return False
