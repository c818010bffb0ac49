"""The files of a registered model: an encoder that loads in an environment of its requirements."""

import io
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import mlflow
import numpy as np
import pandas as pd
from mlflow.entities import LoggedModel
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, Schema, TensorSpec
from PIL import Image

import bt_ray
from bt_ray.checkpoints.manifest import MANIFEST, Manifest
from bt_ray.config import SETTINGS_FILE, Settings, from_json
from bt_ray.model.encoder import build_encoder
from bt_ray.model.weights import ENCODER, fingerprint, load_weights
from bt_ray.tracking.registry_code import needs_of

_CODE = Path(__file__).with_name("mlflow_encoder.py")
_REQUIREMENTS = ("mlflow", "torch", "safetensors", "pillow", "numpy", "pandas")
"""All that `mlflow_encoder.py` imports, and what bt_ray imports for it."""
_OF_OTHER_IMAGES = ("imagecodecs", "opencv-python-headless", "tifffile")
"""What reads images that are not 8-bit RGB, as they were read in training."""
_OF_DICOM = "pydicom"
_FILES = {"weights": ENCODER, "settings": SETTINGS_FILE, "manifest": MANIFEST}


def save_model(folder: Path, checkpoint: Path, *, run_id: str, logged: LoggedModel) -> None:
    """Writes the encoder in `checkpoint` as an MLflow model, code and requirements included.

    Args:
      folder: to be made.
      run_id: the run that trained it.
      logged: how MLflow records the model.
    """
    settings = from_json((checkpoint / SETTINGS_FILE).read_text())
    num_features = cast(int, build_encoder(settings).num_features)
    mlflow.pyfunc.save_model(
        path=str(folder),
        mlflow_model=Model(
            artifact_path=logged.artifact_location,
            model_uuid=logged.model_id,
            run_id=run_id,
            model_id=logged.model_id,
        ),
        python_model=str(_CODE),
        artifacts={
            name: str(checkpoint / file)
            for name, file in _FILES.items()
            if (checkpoint / file).is_file()
        },
        code_paths=[str(Path(bt_ray.__file__).parent), *map(str, needs_of(settings.model).code)],
        pip_requirements=requirements(settings),
        signature=ModelSignature(
            inputs=Schema([ColSpec("binary", "image")]),
            outputs=Schema([TensorSpec(np.dtype("float32"), (-1, num_features))]),
        ),
        input_example=_example(settings),
    )


def digest_of(checkpoint: Path) -> str:
    """The digest of the encoder's weights in a checkpoint. Raises: CheckpointError; OSError."""
    encoder = build_encoder(from_json((checkpoint / SETTINGS_FILE).read_text()))
    load_weights(encoder, checkpoint / ENCODER)
    return fingerprint(encoder)


def step_of(checkpoint: Path) -> int | None:
    """The steps after which a checkpoint was saved, where its manifest says so."""
    return Manifest.read(checkpoint).step if (checkpoint / MANIFEST).is_file() else None


def requirements(settings: Settings) -> list[str]:
    """Packages that the model needs, of the versions that are here.

    A label such as +cpu or +cu126 is left out: no package index has a version of that name.
    """
    names = dict.fromkeys((*_REQUIREMENTS, *needs_of(settings.model).packages))
    if not settings.data.is_rgb:
        more = (*_OF_OTHER_IMAGES, *([_OF_DICOM] if find_spec(_OF_DICOM) else []))
        names |= dict.fromkeys(more)
    return [f"{name}=={version(name).partition('+')[0]}" for name in names]


def _example(settings: Settings) -> pd.DataFrame:
    """A grey image, encoded: the form that the model's input has."""
    encoded, px, pixels = io.BytesIO(), settings.views.image_px, settings.data.pixels
    if pixels.is_rgb:
        Image.new("RGB", (px, px), (128, 128, 128)).save(encoded, "PNG")
    else:
        middle = pixels.highest_level // 2 + 1
        np.save(encoded, np.full((px, px, pixels.channels), middle, pixels.dtype))
    return pd.DataFrame({"image": [encoded.getvalue()]})
