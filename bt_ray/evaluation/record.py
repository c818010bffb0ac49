"""An evaluation's result, kept as a file and with the MLflow run of its encoder."""

import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bt_ray.errors import TrackingError
from bt_ray.storage.working_copy import send
from bt_ray.tracking.mlflow import MlflowRun

_log = logging.getLogger(__name__)


def keep_evaluation(
    record: Mapping[str, Any],
    *,
    name: str,
    reference: str,
    storage: Path,
    run: MlflowRun | None,
    files: Sequence[Path] = (),
) -> Path:
    """Writes `record` below the storage of all runs; its scores become the run's `eval/…`.

    A tracking server that is away costs the run's copy, not the file.

    Args:
      files: stored with the run, too, each in a folder of the name of its own.
    Returns: the file, named after the evaluation and how the encoder was named.
    """
    file = file_of_record(reference, name, storage)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(record, indent=2))
    send(file)
    if run is not None:
        try:
            run.log(0, {f"eval/{score}": value for score, value in record["scores"].items()})
            run.log_file(file, "evaluations")
            for other in files:
                run.log_file(other, f"evaluations/{other.parent.name}")
        except TrackingError as away:
            _log.warning("%s The result is in %s.", away, file)
    return file


def file_of_record(reference: str, name: str, storage: Path) -> Path:
    """The file of the record of an evaluation, below the storage of all runs.

    Args:
      reference: how the encoder was named.
      name: the evaluation's.
    """
    words = re.sub(r"[^A-Za-z0-9.@-]+", "_", reference).strip("_")
    return storage / "evaluations" / f"{words}-{name}.json"
