"""The database of Optuna's study: which one, opened by many processes at once, and what it says."""

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import optuna
import sqlalchemy
from optuna.exceptions import OptunaError, StorageInternalError
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from bt_ray.errors import BtRayError, LaunchError, SettingsError
from bt_ray.redaction import redact, without_credentials

T = TypeVar("T")

_log = logging.getLogger(__name__)
VARIABLE = "BT_RAY_STUDY"
"""Environment variable that names the database where no option does."""
_FROM_FILE = "@"
_LOCK_WAIT_S = 20
_PATIENCE_S, _PAUSE_S = 120.0, 2.0
_MAKES_TABLES = 0x62745F726179
"""Number of the lock that whoever opens a study in PostgreSQL holds for that moment."""


def study_url(folder: Path, given: str | None = None) -> str:
    """Where the study of the sweep in `folder` is kept: as given, by the environment, or there.

    Args:
      given: a URL, or @FILE for one that a file holds, which shows no password to who lists
        processes.
    Raises: SettingsError for a file that cannot be read or holds no URL.
    """
    url = given or os.environ.get(VARIABLE, "").strip()
    if not url:
        return own_study(folder)
    if not url.startswith(_FROM_FILE):
        return url
    file = Path(url.removeprefix(_FROM_FILE)).expanduser()
    try:
        url = file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise SettingsError(
            f"study=@{file} cannot be read ({reason}); name a file with a database's URL in it."
        ) from error
    if "://" not in url or len(url.split()) != 1:
        raise SettingsError(
            f"study=@{file}: the file must hold a database's URL, such as "
            "postgresql://USER:PASSWORD@HOST/DATABASE, and nothing else."
        )
    return url


def own_study(folder: Path) -> str:
    """The study that lies in the folder of its sweep."""
    return f"sqlite:///{folder}/study.db"


@contextmanager
def answering_study(url: str, *more: type[Exception]) -> Iterator[None]:
    """Makes one sentence of whatever goes wrong with a study's storage.

    Args:
      more: errors that are taken for the storage's, beside those of Optuna and of databases.
    Raises: LaunchError in their place.
    """
    theirs: tuple[type[Exception], ...] = (SQLAlchemyError, OptunaError, ImportError, *more)
    try:
        yield
    except BtRayError:
        raise
    except theirs as error:
        cause = error.__cause__ or error
        lines = str(getattr(cause, "orig", None) or cause).splitlines() or [type(cause).__name__]
        reason = redact(lines[0], url)[:200]
        if isinstance(error, ImportError):
            way_out = (
                "Install the database's driver, for PostgreSQL by `pip install "
                "'bt-ray[postgresql]'`, or give another --study."
            )
        else:
            way_out = (
                "If another process holds it, wait for that one. If it is damaged, move it away: "
                "the same command makes it anew from the trials' records. Or give another --study."
            )
        raise LaunchError(
            f"Optuna's study in {without_credentials(url)} cannot be used ({reason}). {way_out}"
        ) from error


def open_study_storage(url: str) -> optuna.storages.RDBStorage:
    """The database of this URL, with Optuna's tables; it is made if it does not exist.

    Raises: LaunchError if it is damaged, locked for long, or does not answer.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if url.startswith("sqlite"):
        options: dict[str, Any] = {"connect_args": {"timeout": _LOCK_WAIT_S}}
    else:  # a server has few connections for many sweeps, and may have hung up since
        options = {"pool_size": 1, "pool_pre_ping": True}
    with answering_study(url, ValueError, OSError), _one_at_a_time(url):  # ValueError: of no URL
        return optuna.storages.RDBStorage(url, engine_kwargs=options)


def patiently(job: Callable[[], T]) -> T:
    """What `job` returns; a database that does not answer is asked again, for two minutes.

    A server may be started again meanwhile. Trials go on; what they report waits.
    """
    deadline = time.monotonic() + _PATIENCE_S
    told = False
    while True:
        try:
            return job()
        except (OperationalError, StorageInternalError):
            if time.monotonic() > deadline:
                raise
        if not told:
            _log.warning("Optuna's study does not answer; asking again for up to two minutes.")
            told = True
        time.sleep(_PAUSE_S)


@contextmanager
def _one_at_a_time(url: str) -> Iterator[None]:
    """Nobody else makes tables in this PostgreSQL meanwhile, where two at once would fail."""
    if not url.startswith("postgres"):
        yield
        return
    with sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool).begin() as connection:
        connection.execute(sqlalchemy.text(f"SELECT pg_advisory_xact_lock({_MAKES_TABLES})"))
        yield
