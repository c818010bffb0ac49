"""The settings of a run: one frozen tree, saying everything, with JSON at its edges.

The tree goes whole to the workers, into every checkpoint, onto the MLflow run and into the
registered model. A field's docstring is its documentation: the command line prints it. To add a
setting, add a field with a default and a docstring to its group, and its check to the group's
`__post_init__`.
"""

from bt_ray.config.data import WITHOUT, DataSettings, Transformation, ViewSettings
from bt_ray.config.flat import PLACES, differences, flatten, in_use, shaping
from bt_ray.config.methods import Method
from bt_ray.config.model import ModelSettings, ObjectiveSettings, Variant
from bt_ray.config.optimizer import OptimizerSettings, ScheduleSettings
from bt_ray.config.pixels import Pixels
from bt_ray.config.pretraining import check_pretraining, idle_colours
from bt_ray.config.reading import SETTINGS_FILE, from_json, override, read_settings, to_json
from bt_ray.config.settings import Settings
from bt_ray.config.training import (
    ProbeSettings,
    ScalingSettings,
    TrackingSettings,
    TrainingSettings,
)

__all__ = [
    "PLACES",
    "SETTINGS_FILE",
    "WITHOUT",
    "DataSettings",
    "Method",
    "ModelSettings",
    "ObjectiveSettings",
    "OptimizerSettings",
    "Pixels",
    "ProbeSettings",
    "ScalingSettings",
    "ScheduleSettings",
    "Settings",
    "TrackingSettings",
    "TrainingSettings",
    "Transformation",
    "Variant",
    "ViewSettings",
    "check_pretraining",
    "differences",
    "flatten",
    "from_json",
    "idle_colours",
    "in_use",
    "override",
    "read_settings",
    "shaping",
    "to_json",
]
