"""The registered model, from code: image bytes in, representations out, nothing unpickled.

MLflow runs this file when the model is loaded, in an environment that has the model's requirements
(`registry_files.py`) and nothing else of ours: it imports those alone, and what of bt_ray needs no
other. Views are made with Pillow, so that a vector depends on no other decoder.
"""

import base64
import binascii
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import torch
from mlflow.exceptions import MlflowException
from numpy.typing import NDArray

from bt_ray.config import from_json
from bt_ray.data.views.raster import Levels, central_view
from bt_ray.model.encoder import build_encoder
from bt_ray.model.inputs import normalize
from bt_ray.model.weights import load_weights

_BLOCK = 64


class EncoderModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc, name-defined]
    """A pretrained encoder behind `mlflow.pyfunc`."""

    def load_context(self, context: Any) -> None:
        """Builds the encoder from the settings and loads its weights."""
        self._settings = from_json(Path(context.artifacts["settings"]).read_text())
        self._encoder = build_encoder(self._settings)
        load_weights(self._encoder, Path(context.artifacts["weights"]))
        self._encoder.eval()

    @torch.no_grad()
    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> NDArray[Any]:
        """Representations float32 (n, F) of the encoded images in column `image`.

        Raises: MlflowException (a bad request) for an image that cannot be decoded.
        """
        images = list(model_input["image"])
        parts = []
        for first in range(0, len(images), _BLOCK):
            block = range(first, min(first + _BLOCK, len(images)))
            pixels = np.stack([self._pixels(i, images[i]) for i in block])
            levels = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())
            parts.append(self._encoder(normalize(levels, self._settings.data)).numpy())
        return np.concatenate(parts)

    def _pixels(self, number: int, encoded: bytes | str) -> Levels:
        """The central view (px, px, c) of an image's bytes, or of their base64 text."""
        try:
            return central_view(_content(encoded), self._settings)
        except (OSError, ValueError) as error:
            raise MlflowException.invalid_parameter_value(
                f"Image {number} cannot be decoded ({error}); send the bytes of an image file, "
                "base64 in JSON."
            ) from error


def _content(encoded: bytes | str) -> bytes:
    """An image's bytes, which JSON brings as base64; no image file consists of its letters alone.

    Of MLflow's forms of a request some come here decoded, others as they were sent.
    """
    content = encoded.encode() if isinstance(encoded, str) else bytes(encoded)
    try:
        return base64.b64decode(b"".join(content.split()), validate=True)
    except binascii.Error:
        return content


mlflow.models.set_model(EncoderModel())
