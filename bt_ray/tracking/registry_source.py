"""What a user wants registered: a finished run, or one of its checkpoints."""

from dataclasses import dataclass, replace
from pathlib import Path

from bt_ray.checkpoints.best import Which, require_best
from bt_ray.checkpoints.checkpoint import find_checkpoint
from bt_ray.checkpoints.manifest import MANIFEST
from bt_ray.config import SETTINGS_FILE, Settings, read_settings
from bt_ray.data.shards.moved import follow_storage
from bt_ray.errors import RegistryError
from bt_ray.json_files import read_json
from bt_ray.redaction import without_credentials
from bt_ray.storage.names import below, is_far
from bt_ray.storage.working_copy import place_of
from bt_ray.tracking.mlflow import MlflowRun
from bt_ray.tracking.mlflow_history import find_recorded
from bt_ray.tracking.mlflow_record import recorded_run
from bt_ray.tracking.mlflow_store import tracking_uri

SUMMARY = "summary.json"


@dataclass(frozen=True)
class Source:
    """An encoder to register: its checkpoint, its run's settings, and its run in MLflow."""

    checkpoint: Path
    settings: Settings
    run: MlflowRun


def find_source(
    reference: str, storage: str, name: str | None = None, which: Which = "last"
) -> Source:
    """The encoder that `reference` means.

    Args:
      reference: the folder, name or MLflow id (also `runs:/ID`) of a finished run, or the folder of
        a checkpoint, of whatever step.
      storage: of all runs, a path or a URI.
      name: of the model in the registry; none: as the run's settings have it.
      which: of the run's checkpoints, if the reference is a run.
    Raises: RegistryError if there is no such run, it has not finished, or MLflow does not know it;
      CheckpointError if it is damaged; TrackingError.
    """
    place = _folder(reference, storage)
    if (place / MANIFEST).is_file():
        checkpoint, run_folder = place, place.parent.parent
        find_checkpoint(place)
    else:
        found = require_best(place) if which == "best" else find_checkpoint(place)
        if found is None:
            raise RegistryError(f"{place} has no checkpoint yet: nothing can be registered.")
        checkpoint, run_folder = found, place
        _check_finished(run_folder)
    run = _run_of(run_folder)
    settings = follow_storage(read_settings(checkpoint / SETTINGS_FILE), run_folder)
    if name is not None:
        settings = replace(settings, tracking=replace(settings.tracking, registered_model=name))
    return Source(checkpoint, settings, run)


def _folder(reference: str, storage: str) -> Path:
    """The folder of a run or checkpoint."""
    places = [reference] if is_far(reference) else [reference, below(storage, reference)]
    for folder in map(place_of, places):
        if (folder / SETTINGS_FILE).is_file():
            return folder
    uri = tracking_uri(storage)
    facts = find_recorded(uri, reference.removeprefix("runs:/"))
    if facts is not None:
        for place in (facts.storage or "", storage):  # the latter once the storage was moved
            folder = place_of(below(place, facts.name))
            known = recorded_run(folder)
            if known is not None and known.run_id == facts.run_id:
                return folder
        raise RegistryError(
            f"MLflow knows the run {facts.run_id} ({facts.name}), but its folder "
            f"{Path(facts.storage or '', facts.name)} is not within reach, nor is it in "
            f"{without_credentials(storage)}: "
            "give the folder, or its storage by --storage."
        )
    raise RegistryError(
        f"{reference!r} is no run and no checkpoint: no folder of that name, here or in "
        f"{without_credentials(storage)}, "
        f"and no run of that name or id in MLflow at {without_credentials(uri)}."
    )


def _check_finished(run_folder: Path) -> None:
    summary = read_json(run_folder / SUMMARY) or {}
    steps, total = summary.get("steps"), summary.get("total_steps")
    if steps is None or total is None or not summary.get("is_finished", steps >= total):
        done = "does not say that it has finished" if steps is None else f"did {steps} of {total}"
        raise RegistryError(
            f"The run in {run_folder} {done}{'' if steps is None else ' steps'}: the same command "
            "finishes it. To register it as it is, give the folder of its checkpoint."
        )


def _run_of(run_folder: Path) -> MlflowRun:
    """The run in MLflow, which must be the server that is meant now."""
    run = recorded_run(run_folder)
    if run is None:
        raise RegistryError(
            f"{run_folder} does not say which MLflow run it is: the command that made the run "
            "records it anew, and registers it."
        )
    return run
