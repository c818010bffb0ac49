"""The two distorted views: drawn first, then applied."""

# Encoders that were registered before version 0.2 import these two from here.
from bt_ray.data.views.reference import central, decode

__all__ = ["central", "decode"]
