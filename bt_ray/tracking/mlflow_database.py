"""MLflow's database in a storage, whose tables one process at a time makes."""

from functools import cache
from pathlib import Path

from mlflow import MlflowClient

from bt_ray.data.lock import held

_SCHEME = "sqlite:///"


@cache
def make_tables(uri: str) -> None:
    """Makes MLflow's tables if the database is a file and has none; once in a process.

    MLflow does that when it is first asked something, and two processes that do it at once break
    each other.

    Raises: what MLflow raises.
    """
    if not uri.startswith(_SCHEME):
        return
    file = Path(uri.removeprefix(_SCHEME))
    if not file.parent.is_dir():
        return
    with held(file.with_name(f".{file.name}.lock")):
        MlflowClient(uri).search_experiments(max_results=1)
