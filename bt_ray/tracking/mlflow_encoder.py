"""The registered model, from code: image bytes in, representations out, nothing unpickled.

MLflow runs this file when the model is loaded.
"""

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from bt_ray.config import from_json
from bt_ray.data.views.reference import central, decode
from bt_ray.model.encoder import build_encoder
from bt_ray.model.inputs import normalize
from bt_ray.model.weights import load_weights

_BLOCK = 64


class EncoderModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc, name-defined]
    """A pretrained encoder behind `mlflow.pyfunc`."""

    def load_context(self, context: Any) -> None:
        """Builds the encoder from the settings and loads its weights."""
        self._settings = from_json(Path(context.artifacts["settings"]).read_text())
        self._encoder = build_encoder(self._settings.model)
        load_weights(self._encoder, Path(context.artifacts["weights"]))
        self._encoder.eval()

    @torch.no_grad()
    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> NDArray[Any]:
        """Representations float32 (n, F) of the encoded images in column `image`."""
        image_px = self._settings.views.image_px
        parts = []
        for first in range(0, len(model_input), _BLOCK):
            images = model_input["image"].iloc[first : first + _BLOCK]
            pixels = np.stack(
                [np.asarray(central(decode(encoded), image_px)) for encoded in images]
            )
            levels = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())
            parts.append(self._encoder(normalize(levels)).numpy())
        return np.concatenate(parts)


mlflow.models.set_model(EncoderModel())
