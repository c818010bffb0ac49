"""Where encoders that were registered before version 0.2 import `normalize` from.

Their code travels with them (`tracking/mlflow_encoder.py` of their day), and runs against the
bt_ray that is already imported.
"""

from bt_ray.model.inputs import normalize

__all__ = ["normalize"]
