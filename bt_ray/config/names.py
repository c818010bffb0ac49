"""Names of runs, experiments and models: whether folders and MLflow will take them."""

import posixpath

from bt_ray.config.checks import require
from bt_ray.config.settings import Settings

_NOT_IN_MODELS = "/:@?"
"""MLflow takes none of the first two, and reads `models:/NAME/1` wrongly with the others."""
_LONGEST_MODEL = 250  # characters: a column of the registry's table
_LONGEST_EXPERIMENT = 500
_LONGEST_FOLDER = 200  # bytes of 255, as files beside it have longer names
_TAKEN = ("ablations", "evaluations", "mlartifacts", "mlflow.db", "shards", "sweeps")
"""What lies in the storage beside the runs."""


def check_names(settings: Settings) -> None:
    """Raises SettingsError for a name that would be refused once the run is trained.

    Settings of earlier runs may hold such names, and are read all the same.
    """
    name = settings.name
    require(
        name.isprintable() and bool(name.strip()) and len(name.encode()) <= _LONGEST_FOLDER,
        f"name={name!r} must be a folder's name of at most {_LONGEST_FOLDER} bytes, all of them "
        "printable characters; give another --name.",
    )
    require(
        name not in _TAKEN,
        f"name={name!r} is what the storage keeps {name} in; give another --name.",
    )
    _check_experiment(settings.tracking.experiment)
    _check_model(settings)


def _check_experiment(name: str) -> None:
    require(
        bool(name.strip()) and name.isprintable() and len(name) <= _LONGEST_EXPERIMENT,
        f"tracking.experiment={name!r} must have 1 to {_LONGEST_EXPERIMENT} printable characters: "
        "MLflow takes no other name; give another --tracking.experiment.",
    )


def _check_model(settings: Settings) -> None:
    name = settings.registered_model
    of_run = settings.tracking.registered_model is None
    what = f"name={settings.name!r}" if of_run else f"tracking.registered_model={name!r}"
    why = f" makes the model's name {name!r}, which" if of_run else ""
    way_out = "another --name, or a --tracking.registered-model" if of_run else "another one"
    require(
        bool(name.strip())
        and name.isprintable()
        and not set(_NOT_IN_MODELS) & set(name)
        and posixpath.normpath(name) == name
        and not name.startswith("..")
        and name != "."
        and len(name) <= _LONGEST_MODEL,
        f"{what}{why} must have 1 to {_LONGEST_MODEL} printable characters, none of them "
        f"{' '.join(_NOT_IN_MODELS)}: MLflow's registry takes no other; give {way_out}.",
    )
